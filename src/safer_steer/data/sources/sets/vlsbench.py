"""VLSBench: the harm is in the picture, not in the text."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow, one_question


def samples(row: SetRow) -> Iterator[Sample]:
    yield one_question(
        row,
        False,
        id=("instruction_id", "id"),
        image=("image", "image_path"),
        question="instruction",
        category=row.optional("sub_category", "category"),
    )


LAYOUT = Layout(
    samples,
    "harm that only the picture shows",
    "Foreshhh/vlsbench",
    split="train",
    files=("data.json",),
    parts="data.json, or train",
)
