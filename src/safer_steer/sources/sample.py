"""What any row of any set comes down to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sample:
    """SetPictures and what a user says to them: one turn in a single-turn set, several in a script."""

    id: str
    """Unique in its row's file or split; in the whole set once `load` has put its name before it."""
    images: tuple[Any, ...]
    """Cells as the set has them; once `load` has checked them, a file's `Path`, or `bytes`."""
    turns: tuple[str, ...]
    safe: bool | None
    """Is it meant to be harmless? None where the set does not say, which counts as risky."""
    intent: str = ""
    """What it is really after, where the set says so."""
    category: str = ""
    source: str = ""
    """Where the set has it from, where it says so."""
    answer: str | None = None
    """The true answer, in sets of general capability."""
    prefilled: tuple[str, ...] = field(default=(), repr=False)
    """Assistant's turns that a script was published with."""
    where: str = ""
