"""BeaverTails-V: questions in 20 categories of harm, one configuration each."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow, one_question


def samples(row: SetRow) -> Iterator[Sample]:
    yield one_question(row, False, category=row.optional("category") or row.subset)


LAYOUT = Layout(
    samples,
    "harmful questions in 20 categories",
    "PKU-Alignment/BeaverTails-V",
    split="train",
    every=True,
    parts="20 configurations, one a category: train, evaluation",
)
