"""Multiple-choice questions in ScienceQA's columns: that set's own files, or a set of one's own.

`question`, `choices` (a list) and `answer` (the place of the right one, from 0) are needed. `hint` comes
before the question. `image` or `images` show pictures. `prompt` is asked, as it is, instead of the question
with lettered options.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_uppercase
from typing import Any

from safer_steer.data.sources.set_row import Layout, Sample, SetRow, printable

ASK = "Answer with the letter of the right option."
FILES, SPLIT, ROW_SPLITS = ("problems.json",), "split", ("train", "val", "test")
"""ScienceQA's repository has one file, an object of rows by id, and each row says of which split it is."""


def options(row: SetRow) -> tuple[tuple[str, ...], int]:
    """The choices, and the place of the right one. Raises `BadRow`."""
    choices = row.items("choices")
    if not choices or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise row.wrong("choices", choices, "a list of texts")
    right = row.value("answer")
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
        raise row.wrong("answer", right, f"the place of one of {len(choices)} choices, from 0")
    return tuple(printable(choice.strip()) for choice in choices), right


def samples(row: SetRow) -> Iterator[Sample]:
    """The question as it is put to a model. Raises `BadRow`."""
    choices, right = options(row)
    if len(choices) > len(ascii_uppercase):
        raise row.wrong("choices", choices, f"at most {len(ascii_uppercase)} of them")
    row.refuse_two_images()
    prompt = row.optional("prompt").strip()
    prompt = prompt or lettered(row.optional("hint"), row.question("question"), choices)
    yield Sample(
        row.key("id", "pid"),
        pictures(row),
        (prompt,),
        True,
        category=row.optional("subject"),
        answer=choices[right],
        choices=choices,
    )


def pictures(row: SetRow) -> tuple[Any, ...]:
    """The cells of a row's pictures. In ScienceQA's repository a picture is in a folder `<split>/<id>`, and
    the row has only its name."""
    if not row.column("image", "images"):
        return ()
    cells = row.pictures("image", "images")
    if "pid" in row.data and isinstance(row.data.get(SPLIT), str):
        folder = f"{row.data[SPLIT]}/{row.key('pid')}"
        return tuple(f"{folder}/{cell}" if isinstance(cell, str) else cell for cell in cells)
    return cells


def lettered(hint: str, question: str, choices: tuple[str, ...]) -> str:
    """Hint, question, a line for each option with its letter, and the request for the letter."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    return printable("\n".join(filter(None, (hint.strip(), question, *lines, ASK))))


QUESTIONS = Layout(
    samples,
    "questions: columns question, choices, answer; optionally id, hint, image, images, prompt",
    split="test",
    files=FILES,
    split_column=SPLIT,
    row_splits=ROW_SPLITS,
    parts="train, validation, test",
    pictureless=True,
)
