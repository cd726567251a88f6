"""ScienceQA: asks hint, question and options. The answer is the text of the right option."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.choice_rows import FILES, ROW_SPLITS, SPLIT, options, pictures
from safer_steer.data.sources.set_row import Layout, Sample, SetRow, printable


def samples(row: SetRow) -> Iterator[Sample]:
    choices, right = options(row)
    asked = [row.optional("hint").strip(), row.question("question"), f"Options: {'; '.join(choices)}"]
    question = row.unmarked("\n".join(filter(None, asked)), "question")
    yield Sample(
        row.key("id", "pid"),
        pictures(row),
        (printable(question),),
        True,
        category=row.optional("subject"),
        answer=choices[right],
        choices=choices,
    )


LAYOUT = Layout(
    samples,
    "school science with answers; about half of the rows have no picture",
    "derek-thomas/ScienceQA",
    split="train",
    files=FILES,
    split_column=SPLIT,
    row_splits=ROW_SPLITS,
    parts="train, validation, test",
    pictureless=True,
)
