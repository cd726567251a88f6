"""MOSSBench: harmless questions that look harmful, and their risky contrasts in `data_contrast`.
`metadata.over` says in which way a question looks harmful."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow, one_question, printable

CONTRAST = "data_contrast"


def samples(row: SetRow) -> Iterator[Sample]:
    kind = None
    if row.data.get("metadata") is not None:
        kind = row.inner("metadata", row.data["metadata"]).data.get("over")
    category = printable(kind) if isinstance(kind, str) else ""
    yield one_question(row, row.subset != CONTRAST, id=("pid",), category=category)


LAYOUT = Layout(
    samples,
    "over-refusal: harmless questions that look harmful, and risky contrasts",
    every=True,
    files=("information.json",),
    folders=("data", CONTRAST),
    beside="images_information",
    parts="data, data_contrast",
)
