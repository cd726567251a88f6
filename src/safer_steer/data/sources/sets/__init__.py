"""The published sets that can be read, by name: one file each, with the reader of its rows and its layout.

Column names are taken from public loaders of the sets; docs/how-to/data.md lists them in a table.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from safer_steer.data.sources.columns import OWN
from safer_steer.data.sources.set_row import Layout

NAMES = (
    "beavertails_v",
    "mm_safetybench",
    "spa_vl",
    "vlguard",
    "vlsbench",
    "jailbreakv_28k",
    "geometry3k",
    "align_anything",
    "scienceqa",
    "safemt",
    "mtmcs_bench",
    "mossbench",
    "xstest",
    "mmds",
    "mm_safetybench_plus",
    "figstep",
    "siuo",
    "hades",
)

SETS: dict[str, Layout] = {name: import_module(f"{__name__}.{name}").LAYOUT for name in NAMES}


NEARLY = 0.8
"""From this similarity on (0-1, difflib), a name is nearly another."""


def layout_of(name: str) -> Layout:
    """The layout of a published set, or of the user's own set for any other name."""
    return SETS.get(name, OWN)


def meant(name: str) -> str:
    """A question to add to an error about a set whose name is nearly that of a published one; else ""."""
    close = [] if name in NAMES else get_close_matches(name.lower(), NAMES, n=1, cutoff=NEARLY)
    return f"; did you mean `{close[0]}`?" if close else ""
