"""Tables for people on a terminal of any width: no cell is ever cut off."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from safer_steer.report.health import Table as Named

LONGEST_NUMBER = 18
"""Characters of a number with its interval; a longer cell is a list, and may wrap."""


def fitted(
    console: Console,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Collection[int] = (),
    whole: Collection[int] = (),
    title: str | None = None,
) -> Table:
    """A table for this console, to be printed with `crop=False`.

    Where it is too wide, headings are stacked, columns move together, and text goes on in the next line.
    Beside numbers no word is broken: a table of them that is still too wide is left to the terminal to wrap.

    Args:
        head, rows: what cannot be printed becomes "?", since it could steer the terminal.
        numbers: columns that stand on the right; their cells do not wrap, unless they are lists.
        whole: columns of names to copy, which do not wrap either.
    """
    head, rows = _printable(head), [*map(_printable, rows)]
    widest = [_widest([row[place] for row in (head, *rows)]) for place in range(len(head))]
    narrow = sum(widest) + 2 * (len(head) - 1) > console.width
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, collapse_padding=narrow)
    for place, name in enumerate(head):
        cells = [row[place] for row in rows]
        stacked = re.sub(r"\s|(?<=-)(?=\w)", "\n", name) if narrow else name
        words = [word for text in (stacked, *cells) for word in text.split()]
        rigid = place in whole or (place in numbers and _widest(cells) <= LONGEST_NUMBER)
        table.add_column(
            Text(stacked),
            justify="right" if place in numbers else "left",
            no_wrap=rigid,
            overflow="fold",
            min_width=_widest(words + cells if rigid else words) if numbers else None,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_tables(console: Console, tables: Iterable[Named]) -> None:
    """Print tables, each with its note below it."""
    for table in tables:
        numbers = range(table.labels, len(table.head))
        console.print(fitted(console, table.head, table.rows, numbers, title=table.title), crop=False)
        for line in filter(None, (table.note, table.after)):
            console.print(line, markup=False, highlight=False)
        console.print()


def _printable(texts: Sequence[str]) -> list[str]:
    return [re.sub(r"[^\n]", lambda one: one[0] if one[0].isprintable() else "?", text) for text in texts]


def _widest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0)
