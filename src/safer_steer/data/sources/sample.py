"""The common form of the rows of all sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from safer_steer.data.sources.set_row import SetRow


@dataclass(frozen=True)
class Sample:
    """Pictures and what a user says about them: one turn in a single-turn set, several in a script."""

    id: str
    """Unique in its file or split; unique in the whole set once `load` has added a prefix."""
    images: tuple[Any, ...]
    """Cells as in the set; after the check by `load`, each is a file's `Path` or `bytes`."""
    turns: tuple[str, ...]
    safe: bool | None
    """Whether it is meant to be harmless. None if the set does not say; that counts as risky."""
    intent: str = ""
    """The true intent, if the set gives one."""
    category: str = ""
    source: str = ""
    """The origin of the row, if the set gives one."""
    answer: str | None = None
    """The true answer, in sets of general capability."""
    choices: tuple[str, ...] = ()
    """The options, in multiple-choice questions; `answer` is one of them."""
    prefilled: tuple[str, ...] = field(default=(), repr=False)
    """Assistant turns that were published with a script."""
    where: str = ""


def one_question(
    row: SetRow,
    safe: bool | None,
    *,
    id: tuple[str, ...] = ("id",),
    image: tuple[str, ...] = ("image",),
    question: str = "question",
    **more: Any,
) -> Sample:
    """The sample of a row with one question.

    Args:
        id, image: names of the column, in the order in which they are tried.
        question: name of the column.
        more: other fields of the sample.

    Raises:
        BadRow: a column is missing, or its value has the wrong type.
    """
    return Sample(row.key(*id), row.pictures(*image), (row.question(question),), safe, **more)
