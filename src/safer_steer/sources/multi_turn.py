"""Turns rows of the multi-turn sets into scripts. These sets are suites for the bench, not sources of
Stage I."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.sources.rows import Row
from safer_steer.sources.sample import Sample


def safemt(row: Row) -> Iterator[Sample]:
    """SafeMT: a dialogue that ends with a user turn. Its user turns are the script. The published assistant
    turns are kept apart (`prefilled`), since the model under test answers every turn itself.
    """
    said: dict[str, list[str]] = {"user": [], "assistant": []}
    turns = row.items("dialogue")
    for place, entry in enumerate(turns):
        turn = row.inner(f"dialogue[{place}]", entry)
        role = turn.text("role").strip().lower()
        if role not in said:
            raise turn.wrong("role", role, "user or assistant")
        said[role].append(turn.question("content"))
        last = role
    if not turns or last != "user":
        raise row.bad("dialogue: does not end on the user", "dialogue without a last question")
    yield Sample(
        *(row.key("id"), row.pictures("image", "image_path"), tuple(said["user"]), False),
        intent=row.optional("question"),
        category=row.optional("scenario"),
        prefilled=tuple(said["assistant"]),
    )


def mtmcs_bench(row: Row) -> Iterator[Sample]:
    """MTMCS-Bench: three user turns. The first (a change of context) or the last (an escalation) exists in a
    safe and an unsafe form. Yields the unsafe script, and the safe script if it differs: its twin, which
    measures over-refusal.

    Only `multimodal_dialogue` is read; `variant_images` and `unimodal_dialogue` repeat the same content.
    """
    dialogue = row.inner("multimodal_dialogue", row.value("multimodal_dialogue"))
    id, images, intent = row.key("id"), row.pictures("image", "image_path"), row.text("unsafe_intent")
    safe, unsafe = (tuple(dialogue.question(*names) for names in _names(form)) for form in ("safe", "unsafe"))
    yield Sample(id, images, unsafe, False, intent=intent, category=row.subset or row.split)
    if safe != unsafe:
        yield Sample(f"{id}-safe", images, safe, True, category=row.subset or row.split)


def _names(form: str) -> list[tuple[str, ...]]:
    """The columns of the three turns. The form's own column comes before the common one."""
    return [(f"{form}_r1", "r1"), ("r2",), (f"{form}_r3", "r3")]
