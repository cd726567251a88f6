"""MOSSBench: harmless questions that look harmful. `metadata.over` says in which way."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.sources.layout import Layout
from safer_steer.sources.sample import Sample, one_question
from safer_steer.sources.set_row import SetRow, printable


def samples(row: SetRow) -> Iterator[Sample]:
    kind = None
    if row.data.get("metadata") is not None:
        kind = row.inner("metadata", row.data["metadata"]).data.get("over")
    category = printable(kind) if isinstance(kind, str) else ""
    yield one_question(row, True, id=("pid",), category=category)


LAYOUT = Layout(
    samples,
    "over-refusal: harmless questions that look harmful",
    files=("information.json",),
    parts="information.json",
)
