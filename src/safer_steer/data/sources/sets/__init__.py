"""The published sets that can be read, by name. Each is a function from a row to its samples, entered with
`published`. Column names are taken from public loaders of the sets; docs/how-to/data.md lists them."""

from __future__ import annotations

from difflib import get_close_matches

from safer_steer.data.sources.columns import OWN
from safer_steer.data.sources.set_row import Layout
from safer_steer.data.sources.sets import further, paper

SETS: dict[str, Layout] = paper.SETS | further.SETS

NEARLY = 0.8
"""From this similarity on (0-1, difflib), a name is nearly another."""


def layout_of(name: str) -> Layout:
    """The layout of a published set, or of the user's own set for any other name."""
    return SETS.get(name, OWN)


def did_you_mean(name: str) -> str:
    """A question to add to an error about a set whose name is nearly that of a published one; else ""."""
    close = [] if name in SETS else get_close_matches(name.lower(), SETS, n=1, cutoff=NEARLY)
    return f"; did you mean `{close[0]}`?" if close else ""
