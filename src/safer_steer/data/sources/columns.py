"""A source's rows under the names that its reader knows (`columns` and `ignore` of a source)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from safer_steer.config import Source
from safer_steer.data.sources.set_row import (
    COLUMNS_SHOWN,
    NO_COLUMN,
    BadRow,
    Layout,
    Sample,
    SetRow,
    one_question,
    printable,
)
from safer_steer.errors import UserError
from safer_steer.files.store import content_id

COLUMNS = ("id", "image", "images", "question", "intent", "safe", "answer", "source", "category")


def samples(row: SetRow) -> Iterator[Sample]:
    """image (or images), question, and optionally id, intent, safe (true, false or null), answer, source,
    category. Without a column `id`, the id is a hash of the row. Raises `BadRow` for any other column."""
    row.only(COLUMNS)
    row.refuse_two_images()
    if row.column("id") is None:
        row = replace(row, data={"id": content_id(row.data)} | row.data)
    if row.value("id") is None:
        raise row.wrong("id", None, "a text")
    yield one_question(
        row,
        row.flag("safe"),
        image=("image", "images"),
        intent=row.optional("intent"),
        category=row.optional("category"),
        source=row.optional("source"),
        answer=row.optional("answer") or None,
    )


OWN = Layout(samples, "columns image, question; optionally id, intent, safe, answer, source, category")


TEXT = "="
"""What a value of `columns` begins with that is a text and not a column's name."""
_FIELD = re.compile(r"\{([^{}]+)\}")


class Columns:
    """Renames and leaves out columns, and remembers which named ones no row has had."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._named = source.columns
        used: list[str] = []
        for value in self._named.values():
            used += _FIELD.findall(value) if value.startswith(TEXT) else [value]
        used += source.ignore
        self._gone = set(used)
        self._unseen = dict.fromkeys(used)
        self._there: dict[str, None] = {}

    def renamed(self, row: dict[str, Any], where: str) -> dict[str, Any]:
        """The row, its columns named as the reader of the set names them. A column that it lacks is missing.
        Raises `BadRow`: a text of `columns` needs a value that the row lacks."""
        if not self._gone and not self._named:
            return row
        for name in row:
            self._unseen.pop(name, None)
        if len(self._there) < COLUMNS_SHOWN:
            self._there |= dict.fromkeys(map(str, row))
        renamed = {name: value for name, value in row.items() if name not in self._gone}
        for name, value in self._named.items():
            if value.startswith(TEXT):
                renamed[name] = self._filled(name, value[len(TEXT) :], row, where)
            elif value in row:
                renamed[name] = row[value]
        return renamed

    def refuse_unseen(self) -> None:
        """Raises `UserError` if no row had one of the columns that the source names."""
        if self._unseen:
            raise UserError(
                f"source {self.source.name}: {self.unseen_in_words()}; correct `columns` or `ignore`"
            )

    def unseen_in_words(self) -> str:
        """Which named columns no row has had so far, and which there are; "" if none."""
        if not self._unseen:
            return ""
        there = ", ".join([*self._there][:COLUMNS_SHOWN])
        return printable(f"no column {', '.join(self._unseen)}; there are: {there}")

    def _filled(self, name: str, text: str, row: dict[str, Any], where: str) -> str:

        def value(field: re.Match[str]) -> str:
            cell = row.get(field[1])
            if cell is None:
                raise BadRow(where, f"columns.{name}: no {field[1]} in the row", f"{NO_COLUMN} {field[1]}")
            return str(cell)

        return _FIELD.sub(value, text)
