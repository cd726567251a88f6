"""MTMCS-Bench: three user turns. The first (a change of context) or the last (an escalation) exists in a safe
and an unsafe form. A suite for the bench, not a source of Stage I.

Only `multimodal_dialogue` is read; `variant_images` and `unimodal_dialogue` repeat the same content.
"""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow


def samples(row: SetRow) -> Iterator[Sample]:
    """Yields the unsafe script, and the safe script if it differs: its twin, which measures over-refusal."""
    dialogue = row.inner("multimodal_dialogue", row.value("multimodal_dialogue"))
    id, images, intent = row.key("id"), row.pictures("image", "image_path"), row.text("unsafe_intent")
    category = row.subset or row.split
    safe, unsafe = _script(dialogue, "safe"), _script(dialogue, "unsafe")
    twin = f"{id}-safe" if safe != unsafe else ""
    yield Sample(id, images, unsafe, False, intent=intent, category=category, twin=twin)
    if twin:
        yield Sample(twin, images, safe, True, category=category, twin=id)


def _script(dialogue: SetRow, form: str) -> tuple[str, ...]:
    """The three turns. The form's own column comes before the common one."""
    columns = [(f"{form}_r1", "r1"), ("r2",), (f"{form}_r3", "r3")]
    return tuple(dialogue.question(*names) for names in columns)


LAYOUT = Layout(
    samples,
    "three-turn attacks and their safe twins",
    "ND-25/MCS-bench",
    every=True,
    parts="type_a, type_b",
    stage_1=False,
)
