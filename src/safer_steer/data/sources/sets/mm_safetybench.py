"""MM-SafetyBench: the picture carries part of the request. The whole request is the `Text_only` question with
the same id."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow, one_question


def samples(row: SetRow) -> Iterator[Sample]:
    row.value("id")
    id = row.key("id")
    intent = (row.intents or {}).get(id)
    if intent is None:
        raise row.bad(
            f"id: {id} has no question in the split Text_only, where the true intents are", "no true intent"
        )
    yield one_question(row, False, intent=intent, category=row.subset)


LAYOUT = Layout(
    samples,
    "harmful requests carried by the picture",
    "PKU-Alignment/MM-SafetyBench",
    split="SD_TYPO",
    every=True,
    parts="13 configurations: SD, SD_TYPO, TYPO, Text_only",
    intents="Text_only",
)
