"""JailBreakV-28K: `jailbreak_query` is the question, `redteam_query` the true intent."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow, one_question


def samples(row: SetRow) -> Iterator[Sample]:
    yield one_question(
        row,
        False,
        image=("image", "image_path"),
        question="jailbreak_query",
        intent=row.question("redteam_query"),
        category=row.optional("policy"),
    )


LAYOUT = Layout(
    samples,
    "jailbreaks with text and picture",
    "JailbreakV-28K/JailBreakV-28k",
    subset="JailBreakV_28K",
    split="JailBreakV_28K",
    files=("JailBreakV_28K.csv", "mini_JailBreakV_28K.csv"),
    parts="JailBreakV_28K: JailBreakV_28K, mini_JailBreakV_28K",
)
