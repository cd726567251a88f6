"""Geometry3K: problems with a figure and their answers."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow, one_question


def samples(row: SetRow) -> Iterator[Sample]:
    answer = row.text("answer").strip()
    yield one_question(row, True, image=("images", "image"), question="problem", answer=answer)


LAYOUT = Layout(
    samples,
    "geometry problems with answers",
    "hiyouga/geometry3k",
    split="train",
    parts="train, test",
)
