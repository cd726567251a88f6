"""Tables of rates whose cells are coloured by their value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from safer_steer.report.main_table import rate

SHADES = 10
"""Classes of colours: `h0` (bad) to `h10` (good)."""


class Cell(NamedTuple):
    """One cell, ready to print; all empty if there is no number."""

    value: str = ""
    interval: str = ""
    n: str = ""
    shade: str = ""
    """Class of its colour."""
    link: str = ""
    """Fragment that lists the dialogues behind it; "" if there are none."""
    listed: int = 0
    """How many these are."""


@dataclass(frozen=True)
class Heat:
    """A table of rates: title, note, head of the columns, and rows with their names."""

    title: str
    note: str
    head: list[str]
    rows: list[tuple[str, list[Cell]]]


def cell_of(entry: Any, n: int, link: str = "", listed: int = 0, bad: bool = False) -> Cell:
    """A cell of a rate `{"value", "low", "high"}`, 0-100; `bad` if a high one is.

    Args:
        link: fragment that lists dialogues behind it, `listed` in number.
    """
    found = rate(entry)
    if found is None or not n:
        return Cell()
    share = 100 - found.value if bad else found.value
    interval = "" if found.low is None or found.high is None else f"[{found.low:.0f}, {found.high:.0f}]"
    shade = f"h{round(share * SHADES / 100)}"
    return Cell(f"{found.value:.0f}", interval, f"n {n:,}", shade, link if listed else "", listed)


def link(**choice: str) -> str:
    """The fragment that opens the dialogue browser with this choice of filters."""
    return f"#dialogues&{urlencode(choice, quote_via=quote, errors='replace')}"
