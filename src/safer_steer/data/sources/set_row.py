"""One row of a set, with type-checked columns and errors that name the place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from safer_steer.dialogue import unknown_key
from safer_steer.errors import UserError

COLUMNS_SHOWN = 12
NO_COLUMN = "no column"
"""Prefix of the reason for a missing column."""
UNKNOWN_COLUMN = "unknown column"
PANDAS_INDEX = ("", "Unnamed: 0", "__index_level_0__")
"""Names of the index in a table that pandas wrote."""


class BadRow(UserError):
    """A row that cannot be used. Depending on `bad_rows` of the source it is an error, or skipped and counted
    under `reason`."""

    def __init__(self, where: str, what: str, reason: str) -> None:
        super().__init__(printable(f"{where}: {what}"))
        self.reason = reason


@dataclass(frozen=True)
class SetRow:
    """A row as read. `where` names set, file and row."""

    where: str
    data: dict[str, Any]
    index: int
    """0-based position in its file or split. Used as the id in sets that have none."""
    subset: str = ""
    split: str = ""
    intents: dict[str, str] | None = field(default=None, repr=False)
    """True intents by row id, for a set that keeps them in a separate split."""
    number: int = 0
    """Rows before it in its split that have the same values in the columns `Layout.numbered`."""

    def bad(self, what: str, reason: str) -> BadRow:
        return BadRow(self.where, what, reason)

    def only(self, columns: tuple[str, ...]) -> None:
        """Raises `BadRow` for a column that is neither in `columns` nor an index that pandas wrote."""
        unknown = [str(name) for name in self.data if name not in columns and name not in PANDAS_INDEX]
        absent = [name for name in columns if name not in self.data]
        for name in unknown:
            if "did you mean" in (hint := unknown_key(name, absent)):
                raise self.bad(f"{name[:40]}: {hint}", UNKNOWN_COLUMN)
        if unknown:
            names = ", ".join(name[:40] for name in unknown[:COLUMNS_SHOWN])
            raise self.bad(f"{names}: unknown key; the keys are {', '.join(columns)}", UNKNOWN_COLUMN)

    def column(self, *names: str) -> str | None:
        """The first of these columns that exists; one with a value is preferred."""
        present = [name for name in names if name in self.data]
        filled = [name for name in present if self.data[name] is not None]
        return next(iter(filled or present), None)

    def value(self, *names: str) -> Any:
        """The value of the first of these columns that exists (see `column`). Raises `BadRow`: none exists.
        The message lists the columns there are."""
        name = self.column(*names)
        if name is None:
            there = ", ".join(list(map(str, self.data))[:COLUMNS_SHOWN]) or "none"
            raise self.bad(
                f"{' or '.join(names)}: the column is missing; there are: {there}", f"{NO_COLUMN} {names[0]}"
            )
        return self.data[name]

    def text(self, *names: str) -> str:
        """A non-blank string. Raises `BadRow`."""
        value = self.value(*names)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(str(self.column(*names)), value, "a text")
        return printable(value)

    def optional(self, *names: str) -> str:
        """A string, or "" if there is none or a blank one. Raises `BadRow` for anything else."""
        name = self.column(*names)
        value = self.data[name] if name else None
        if value is not None and not isinstance(value, str):
            raise self.wrong(str(name), value, "a text")
        return printable(value or "").strip()

    def question(self, *names: str) -> str:
        """A string without the placeholder `<image>`, which some sets use to mark the picture's position."""
        return self.unmarked(self.text(*names), names[0])

    def unmarked(self, text: str, name: str) -> str:
        bare = text.replace("<image>", "").strip()
        if not bare:
            raise self.wrong(name, text, "a text")
        return bare

    def key(self, *names: str) -> str:
        """The row's id, a string or an integer. If the column or its value is missing, the row's index."""
        name = self.column(*names)
        value = self.data[name] if name else None
        if value is None:
            return f"{self.index:06d}"
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value) if abs(value) < 10**18 else f"{value:x}"
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(str(name), value, "a text")
        return printable(value)

    def flag(self, name: str) -> bool | None:
        """True, false or None. Also accepts the words, since CSV has no booleans."""
        value = self.data.get(name)
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.strip().lower(), value)
        if value is None or isinstance(value, bool):
            return value
        raise self.wrong(name, value, "true, false or null")

    def items(self, *names: str) -> list[Any]:
        """A list. Raises `BadRow`."""
        value = self.value(*names)
        if not isinstance(value, list):
            raise self.wrong(str(self.column(*names)), value, "a list")
        return value

    def inner(self, name: str, value: Any) -> SetRow:
        """An object in a column, as a row of its own."""
        if not isinstance(value, dict):
            raise self.wrong(name, value, "an object")
        return SetRow(f"{self.where}: {name}", value, self.index, self.subset, self.split)

    def pictures(self, *names: str) -> tuple[Any, ...]:
        """The pictures' cells, unchanged. Empty if the column has no value."""
        value = self.value(*names)
        cells = value if isinstance(value, list) else [value]
        return () if value is None else tuple(cells)

    def refuse_two_images(self) -> None:
        """Raises `BadRow` if both `image` and `images` have a value."""
        if self.data.get("image") is not None and self.data.get("images") is not None:
            raise self.bad("image: give either `image` or `images`", "image given twice")

    def wrong(self, name: str, value: Any, form: str) -> BadRow:
        return self.bad(f"{name}: is {excerpt(value)}; give {form}", f"{name} of a wrong type")


def excerpt(value: Any) -> str:
    """The beginning of a value, as JSON."""
    try:
        return json.dumps(value, default=str)[:40]
    except (ValueError, TypeError, RecursionError):
        return f"a {type(value).__name__}"


def printable(text: str) -> str:
    """Replaces lone surrogates, which JSON allows and UTF-8 does not, with "?"."""
    return text.encode(errors="replace").decode()


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
    later: tuple[tuple[Any, ...], ...] = ()
    """The pictures of the second turn, of the third and so on; `images` are those of the first."""
    twin: str = ""
    """The id of its twin: the sample that differs from it in being harmless, or in being harmful."""
    where: str = ""

    @property
    def pictures(self) -> tuple[Any, ...]:
        """The pictures of all turns."""
        return (*self.images, *(image for turn in self.later for image in turn))

    @property
    def pair(self) -> str:
        """What it and its twin have in common: the first of their ids, or its own."""
        return min(self.id, self.twin or self.id)


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


@dataclass(frozen=True)
class Layout:
    """Where the rows of a set are, and the function that reads one."""

    samples: Reader
    """Raises `BadRow`."""
    about: str = ""
    hub: str | None = None
    """The set's id on the hub."""
    subset: str | None = None
    """The default configuration. If None: all configurations, if `every`."""
    split: str | None = None
    every: bool = False
    """Configurations and splits are parts of one set: by default all of them are read."""
    files: tuple[str, ...] = ()
    """Patterns of the JSON or CSV files in a downloaded folder, or up to three levels below. A file's stem is
    its split."""
    folders: tuple[str, ...] = ()
    """Folders above the files that are configurations. Each has a file of one name, so the split's name is no
    part of an id."""
    beside: str = ""
    """A folder of files whose picture paths are relative to the folder that it lies in."""
    split_column: str = ""
    """A column of `files` that says of which split a row is. A table without it is one split."""
    row_splits: tuple[str, ...] = ()
    """The values in `split_column`, as text."""
    one_table: bool = False
    """The set is one table, whose splits `split_column` names: in every form, on the hub too."""
    numbered: tuple[str, ...] = ()
    """Columns of a set without ids whose twins are the rows at the same place among those alike in them; see
    `SetRow.number`."""
    parts: str = ""
    """Configurations and splits, as text for the user."""
    intents: str | None = None
    """A split that holds the true intents, by id."""
    pictureless: bool = False
    """Some rows have no picture by design."""
    stage_1: bool = True
    """Whether the set can be a source of Stage I."""


Reader = Callable[[SetRow], Iterator[Sample]]


def published(sets: dict[str, Layout], about: str, **layout: Any) -> Callable[[Reader], Reader]:
    """Enters the decorated reader in `sets`, under its name and with this layout (fields of `Layout`)."""

    def enter(samples: Reader) -> Reader:
        sets[samples.__name__] = Layout(samples, about, **layout)
        return samples

    return enter
