"""MM-SafetyBench++: each harmful request has a twin whose picture and question were edited to be harmless.

Rows have no ids: the n-th harmful and the n-th harmless row of a category are twins.
"""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow


def samples(row: SetRow) -> Iterator[Sample]:
    label, category = row.text("label").strip().lower(), row.text("category").strip()
    if label not in ("safe", "unsafe"):
        raise row.wrong("label", label, "safe or unsafe")
    unsafe = f"{category}-{row.number:04d}"
    ids = (f"{unsafe}-safe", unsafe) if label == "safe" else (unsafe, f"{unsafe}-safe")
    yield Sample(
        ids[0],
        row.pictures("image"),
        (row.question("question"),),
        label == "safe",
        category=category,
        twin=ids[1],
    )


LAYOUT = Layout(
    samples,
    "harmful requests and their twins, edited to be harmless",
    "EchoSafe-MLLM/MM-SafetyBench-plus-plus",
    split="Gen",
    split_column="mode",
    row_splits=("Gen", "GenOCR"),
    one_table=True,
    numbered=("category", "label"),
    parts="Gen, GenOCR",
)
