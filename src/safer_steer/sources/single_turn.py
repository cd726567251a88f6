"""Turns rows of the single-turn sets into samples: picture, question, true intent, safe or not, category,
answer.

Column names are taken from public loaders of the sets; docs/data.md lists them in a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from safer_steer.sources.rows import Row
from safer_steer.sources.sample import Sample

OWN_COLUMNS = ("id", "image", "images", "question", "intent", "safe", "answer", "source", "category")


def own(row: Row) -> Iterator[Sample]:
    """The user's own set: id, image (or images), question, and optionally intent, safe (true, false or null),
    answer, source, category. Raises `BadRow` for any other column."""
    row.only(OWN_COLUMNS)
    row.value("id")
    if row.data["id"] is None:
        raise row.wrong("id", None, "a text")
    images = row.pictures("image", "images")
    yield Sample(
        *(row.key("id"), images, (row.question("question"),), row.flag("safe")),
        **_texts(row, intent="intent", category="category", source="source"),
        answer=row.optional("answer") or None,
    )


def beavertails_v(row: Row) -> Iterator[Sample]:
    """BeaverTails-V: questions in 20 categories of harm, one configuration each."""
    category = row.optional("category") or row.subset
    yield Sample(row.key("id"), row.pictures("image"), (row.question("question"),), False, category=category)


def mm_safetybench(row: Row) -> Iterator[Sample]:
    """MM-SafetyBench: the picture carries part of the request. The whole request is the `Text_only` question
    with the same id."""
    row.value("id")
    id = row.key("id")
    intent = (row.intents or {}).get(id)
    if intent is None:
        raise row.bad(
            f"id: {id} has no question in the split Text_only, where the true intents are", "no true intent"
        )
    yield Sample(
        id, row.pictures("image"), (row.question("question"),), False, intent=intent, category=row.subset
    )


def spa_vl(row: Row) -> Iterator[Sample]:
    """SPA-VL: `help` holds harmless questions, `harm` harmful ones. For other splits the set does not say."""
    safe = {"help": True, "harm": False}.get(row.split)
    yield Sample(
        row.key("id"),
        row.pictures("image"),
        (row.question("question"),),
        safe,
        **_texts(row, category="class1"),
    )


def vlguard(row: Row) -> Iterator[Sample]:
    """VLGuard: a list of safe and unsafe instructions per picture. Each instruction becomes one sample."""
    category = row.optional("harmful_subcategory", "subcategory") or row.optional(
        "harmful_category", "category"
    )
    id, images = row.key("id"), row.pictures("image")
    given = row.items("instr-resp")
    if not given:
        raise row.wrong("instr-resp", given, "at least one instruction")
    for place, entry in enumerate(given):
        inner = row.inner("instr-resp", entry)
        name = inner.column("safe_instruction", "unsafe_instruction", "instruction")
        question = inner.question(
            *([name] if name else ["safe_instruction", "unsafe_instruction", "instruction"])
        )
        yield Sample(f"{id}-{place}", images, (question,), name == "safe_instruction", category=category)


def vlsbench(row: Row) -> Iterator[Sample]:
    """VLSBench: the harm is in the picture, not in the text."""
    images = row.pictures("image", "image_path")
    category = row.optional("sub_category", "category")
    yield Sample(
        row.key("instruction_id", "id"), images, (row.question("instruction"),), False, category=category
    )


def jailbreakv_28k(row: Row) -> Iterator[Sample]:
    """JailBreakV-28K: `jailbreak_query` is the question, `redteam_query` the true intent."""
    yield Sample(
        *(row.key("id"), row.pictures("image", "image_path"), (row.question("jailbreak_query"),), False),
        intent=row.question("redteam_query"),
        **_texts(row, category="policy"),
    )


def geometry3k(row: Row) -> Iterator[Sample]:
    """Geometry3K: problems with a figure and their answers."""
    yield Sample(
        row.key("id"),
        row.pictures("images", "image"),
        (row.question("problem"),),
        True,
        answer=row.text("answer").strip(),
    )


def align_anything(row: Row) -> Iterator[Sample]:
    """Align-Anything, text and image to text: everyday questions; neither response is a true answer."""
    yield Sample(row.key("id"), row.pictures("image"), (row.question("question"),), True)


def scienceqa(row: Row) -> Iterator[Sample]:
    """ScienceQA: asks hint, question and options. The answer is the text of the right option."""
    choices = row.items("choices")
    if not choices or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise row.wrong("choices", choices, "a list of texts")
    right = row.value("answer")
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
        raise row.wrong("answer", right, f"the place of one of {len(choices)} choices, from 0")
    asked = [
        row.optional("hint").strip(),
        row.question("question"),
        "Options: " + "; ".join(map(str.strip, choices)),
    ]
    question = row.unmarked("\n".join(filter(None, asked)), "question")
    yield Sample(
        *(row.key("id"), row.pictures("image"), (question.encode(errors="replace").decode(),), True),
        **_texts(row, category="subject"),
        answer=choices[right].strip().encode(errors="replace").decode(),
    )


def mossbench(row: Row) -> Iterator[Sample]:
    """MOSSBench: harmless questions that look harmful. `metadata.over` says in which way."""
    kind = (
        row.inner("metadata", row.data["metadata"]).data.get("over")
        if row.data.get("metadata") is not None
        else None
    )
    category = kind if isinstance(kind, str) else ""
    yield Sample(
        row.key("pid"),
        row.pictures("image"),
        (row.question("question"),),
        True,
        category=category.encode(errors="replace").decode(),
    )


def xstest(row: Row) -> Iterator[Sample]:
    """XSTest: harmless prompts that look harmful, and their harmful contrasts. No pictures."""
    label, kind = row.optional("label").strip().lower(), row.optional("type").strip()
    if label not in ("safe", "unsafe") and not kind:
        raise row.bad(
            "label: neither `label` (safe or unsafe) nor `type` tells safe prompts from unsafe ones",
            "no column label",
        )
    safe = label == "safe" if label in ("safe", "unsafe") else not kind.lower().startswith("contrast")
    yield Sample(row.key("id", "id_v2"), (), (row.question("prompt"),), safe, category=kind)


def _texts(row: Row, **columns: str) -> dict[str, Any]:
    """The values of optional columns, keyed by the sample's field names."""
    return {name: row.optional(column) for name, column in columns.items()}
