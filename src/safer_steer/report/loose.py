"""Numbers of files that have no type of their own: configs, rows of training, manifests."""

from __future__ import annotations

from math import isfinite
from typing import Any


def number(value: Any) -> float | None:
    """`value` as a finite float, or None for anything else."""
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        else None
    )


def at(tree: Any, *keys: str) -> Any:
    """The value under `keys` in nested dicts, or None if a key is missing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
