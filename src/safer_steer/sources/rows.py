"""One row of a set: columns with checked types, and errors that say where."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from safer_steer.errors import UserError

COLUMNS_SHOWN = 12
NO_COLUMN = "no column"
"""How the reason of a missing column begins."""


class BadRow(UserError):
    """A row that cannot be used: an error, or a row skipped and counted under `reason` (`bad_rows` of the
    source)."""

    def __init__(self, where: str, what: str, reason: str) -> None:
        super().__init__(printable(f"{where}: {what}"))
        self.reason = reason


@dataclass(frozen=True)
class Row:
    """A row as it was read; `where` names set, file and row."""

    where: str
    data: dict[str, Any]
    index: int
    """0-based place in its file or split: the id of sets that have none."""
    subset: str = ""
    split: str = ""
    intents: dict[str, str] | None = field(default=None, repr=False)
    """True intents by row id, in a set that keeps them in a split of their own."""

    def bad(self, what: str, reason: str) -> BadRow:
        return BadRow(self.where, what, reason)

    def column(self, *names: str) -> str | None:
        """The first of these columns that is there, one with a value before one without."""
        present = [name for name in names if name in self.data]
        return next(
            (name for name in present if self.data[name] is not None), present[0] if present else None
        )

    def value(self, *names: str) -> Any:
        """What stands in the first of these columns that is there.

        Raises:
            BadRow: none is; says which are.
        """
        name = self.column(*names)
        if name is None:
            there = ", ".join(list(map(str, self.data))[:COLUMNS_SHOWN]) or "none"
            raise self.bad(
                f"{' or '.join(names)}: the column is missing; there are: {there}", f"{NO_COLUMN} {names[0]}"
            )
        return self.data[name]

    def text(self, *names: str) -> str:
        """A text that is not blank. Raises `BadRow`."""
        value = self.value(*names)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(self.column(*names) or names[0], value, "a text")
        return printable(value)

    def optional(self, *names: str) -> str:
        """A text, or "" where there is none. Raises `BadRow` for anything else."""
        name = self.column(*names)
        value = self.data[name] if name else None
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.wrong(str(name), value, "a text")
        return printable(value)

    def question(self, *names: str) -> str:
        """A text without the place-holder `<image>`, which some sets put where the picture goes."""
        return self.unmarked(self.text(*names), names[0])

    def unmarked(self, text: str, name: str) -> str:
        bare = text.replace("<image>", "").strip()
        if not bare:
            raise self.wrong(name, text, "a text")
        return bare

    def key(self, *names: str) -> str:
        """The row's id, a text or a whole number; its place where the set has no such column or no value in
        it."""
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
        """True, false or nothing; as a word too, since a CSV file has no other way."""
        value = self.data.get(name)
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.strip().lower(), value)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, value, "true, false or null")
        return value

    def items(self, *names: str) -> list[Any]:
        """A list. Raises `BadRow`."""
        value = self.value(*names)
        if not isinstance(value, list):
            raise self.wrong(self.column(*names) or names[0], value, "a list")
        return value

    def inner(self, name: str, value: Any) -> Row:
        """An object that stands in a column, as a row of its own."""
        if not isinstance(value, dict):
            raise self.wrong(name, value, "an object")
        return Row(f"{self.where}: {name}", value, self.index, self.subset, self.split)

    def pictures(self, *names: str) -> tuple[Any, ...]:
        """The pictures' cells as they stand there; none where the column is empty."""
        value = self.value(*names)
        if value is None:
            return ()
        return tuple(value) if isinstance(value, list) else (value,)

    def wrong(self, name: str, value: Any, wanted: str) -> BadRow:
        return self.bad(f"{name}: is {shown(value)}; give {wanted}", f"{name} of a wrong type")


def shown(value: Any) -> str:
    """The beginning of a value, as JSON."""
    try:
        return json.dumps(value, default=str)[:40]
    except (ValueError, TypeError, RecursionError):
        return f"a {type(value).__name__}"


def printable(text: str) -> str:
    """Half of a surrogate pair, which JSON can hold and UTF-8 cannot, becomes "?"."""
    return text.encode(errors="replace").decode()
