"""Draws a seeded subsample of a set, in constant memory and in the set's order."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def subsample(
    items: Callable[[bool], Iterator[Item]], key: Callable[[Item], str], limit: int, seed: int
) -> Iterator[Item]:
    """The `limit` items with the lowest hashes of key and seed, independent of the order of the set.

    A larger limit includes all items of a smaller one.

    Args:
        items: reads the set from its beginning. Called twice: with False, then with True for the pass whose
            items are yielded.
        key: returns an item's key, unique in the set.
    """
    lowest: list[int] = []  # negated, so that the highest is on top
    for item in items(False):
        rank = _rank(key(item), seed)
        if len(lowest) < limit:
            heapq.heappush(lowest, -rank)
        elif rank < -lowest[0]:
            heapq.heapreplace(lowest, -rank)
    for item in items(True):
        if lowest and _rank(key(item), seed) <= -lowest[0]:
            yield item


def _rank(key: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest(), "big")
