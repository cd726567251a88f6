"""VLGuard: a list of safe and unsafe instructions per picture. Each instruction becomes one sample."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow

INSTRUCTIONS = ("safe_instruction", "unsafe_instruction", "instruction")
CATEGORIES = ("harmful_subcategory", "subcategory", "harmful_category", "category")


def samples(row: SetRow) -> Iterator[Sample]:
    category = row.optional(*CATEGORIES[:2]) or row.optional(*CATEGORIES[2:])
    id, images = row.key("id"), row.pictures("image")
    entries = row.items("instr-resp")
    if not entries:
        raise row.wrong("instr-resp", entries, "at least one instruction")
    for place, entry in enumerate(entries):
        inner = row.inner("instr-resp", entry)
        name = inner.column(*INSTRUCTIONS)
        question = inner.question(name) if name else inner.question(*INSTRUCTIONS)
        yield Sample(f"{id}-{place}", images, (question,), name == "safe_instruction", category=category)


LAYOUT = Layout(
    samples,
    "safe and unsafe instructions on safe and unsafe pictures",
    "ys-zong/VLGuard",
    split="train",
    files=("train.json", "test.json"),
    parts="train.json, test.json",
)
