"""SPA-VL: the split `help` has harmless questions, `harm` harmful ones. For other splits the set does not
say."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow, one_question


def samples(row: SetRow) -> Iterator[Sample]:
    safe = {"help": True, "harm": False}.get(row.split)
    yield one_question(row, safe, category=row.optional("class1"))


LAYOUT = Layout(
    samples,
    "preference data on harmful questions, and a test of help",
    "sqrti/SPA-VL",
    subset="default",
    split="train",
    parts="default: train, validation; test: harm, help",
)
