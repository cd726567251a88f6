"""ScienceQA: asks hint, question and options. The answer is the text of the right option."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.sources.layout import Layout
from safer_steer.sources.sample import Sample
from safer_steer.sources.set_row import SetRow, printable


def samples(row: SetRow) -> Iterator[Sample]:
    choices = row.items("choices")
    if not choices or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise row.wrong("choices", choices, "a list of texts")
    right = row.value("answer")
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
        raise row.wrong("answer", right, f"the place of one of {len(choices)} choices, from 0")
    options = "; ".join(choice.strip() for choice in choices)
    asked = [row.optional("hint").strip(), row.question("question"), f"Options: {options}"]
    question = row.unmarked("\n".join(filter(None, asked)), "question")
    yield Sample(
        row.key("id"),
        row.pictures("image"),
        (printable(question),),
        True,
        category=row.optional("subject"),
        answer=printable(choices[right].strip()),
    )


LAYOUT = Layout(
    samples,
    "school science with answers; about half of the rows have no picture",
    "derek-thomas/ScienceQA",
    split="train",
    parts="train, validation, test",
    pictureless=True,
)
