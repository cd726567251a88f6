"""XSTest: harmless prompts that look harmful, and their harmful contrasts. No pictures. A suite for the
bench, not a source of Stage I."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow


def samples(row: SetRow) -> Iterator[Sample]:
    label, kind = row.optional("label").strip().lower(), row.optional("type").strip()
    if label in ("safe", "unsafe"):
        safe = label == "safe"
    elif kind:
        safe = not kind.lower().startswith("contrast")
    else:
        raise row.bad(
            "label: neither `label` (safe or unsafe) nor `type` tells safe prompts from unsafe ones",
            "no column label",
        )
    yield Sample(row.key("id", "id_v2"), (), (row.question("prompt"),), safe, category=kind)


LAYOUT = Layout(
    samples,
    "over-refusal in text, without pictures",
    "walledai/XSTest",
    files=("xstest_prompts.csv", "xstest_v2_prompts.csv"),
    parts="one split",
    pictureless=True,
    stage_1=False,
)
