"""SIUO: picture and question are each harmless, and unsafe together."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow, one_question


def samples(row: SetRow) -> Iterator[Sample]:
    yield one_question(row, False, id=("question_id",), category=row.optional("category"))


LAYOUT = Layout(
    samples,
    "harmless pictures and questions that are unsafe together",
    "sinwang/SIUO",
    files=("siuo_gen.json",),
    parts="siuo_gen.json",
)
