"""Align-Anything, text and image to text: everyday questions; neither response is a true answer."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow, one_question


def samples(row: SetRow) -> Iterator[Sample]:
    yield one_question(row, True)


LAYOUT = Layout(
    samples,
    "everyday questions about pictures",
    "PKU-Alignment/align-anything",
    subset="text-image-to-text",
    split="train",
    parts="text-image-to-text: train, val",
)
