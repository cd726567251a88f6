"""The one draw of a part of a set, a suite, or a set of questions: seeded, balanced, in the set's order."""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def subsample(
    items: Callable[[bool], Iterator[Item]],
    key: Callable[[Item], str],
    limit: int,
    seed: int,
    category: Callable[[Item], str] = lambda item: "",
) -> Iterator[Item]:
    """`limit` items, drawn by hashes of key and seed, so independently of the order of the set. Each item is
    about as likely as any other, and each category has about its share of them.

    A larger limit includes all items of a smaller one. Of each item only its hash is in memory.

    Args:
        items: reads the set from its beginning. Called twice: with False, then with True for the pass whose
            items are yielded.
        key: returns an item's key, unique in the set.
        category: returns an item's category; "" if it has none.
    """
    ranks: defaultdict[str, list[int]] = defaultdict(list)
    for item in items(False):
        ranks[category(item)].append(_rank(key(item), seed))
    chosen = {rank for _, rank in heapq.nsmallest(limit, _places(ranks, seed))}
    for item in items(True):
        if _rank(key(item), seed) in chosen:
            yield item


def draw(
    items: Sequence[Item],
    key: Callable[[Item], str],
    limit: int | None,
    seed: int,
    category: Callable[[Item], str] = lambda item: "",
) -> list[Item]:
    """`subsample` of items at hand; all of them if `limit` is None."""
    if limit is None or limit >= len(items):
        return list(items)
    return list(subsample(lambda _: iter(items), key, limit, seed, category))


def draw_order(
    items: Sequence[Item], key: Callable[[Item], str], seed: int, category: Callable[[Item], str]
) -> list[Item]:
    """The items in the order in which larger and larger limits draw them."""
    ranks: defaultdict[str, list[int]] = defaultdict(list)
    for item in items:
        ranks[category(item)].append(_rank(key(item), seed))
    places = {rank: place for place, rank in _places(ranks, seed)}
    return sorted(items, key=lambda item: (places[rank := _rank(key(item), seed)], rank))


def _places(ranks: Mapping[str, Iterable[int]], seed: int) -> Iterator[tuple[float, int]]:
    """The place of each item in the order in which all are drawn, 0 to 1, with its rank.

    A category's items are evenly spaced, from a random offset (systematic sampling): up to place t there is a
    share t of each category, and a category with one item is no less likely than others.
    """
    for name, found in ranks.items():
        ordered = sorted(found)
        offset = _rank(f"category {name}", seed) / 2**64
        yield from (((index + offset) / len(ordered), rank) for index, rank in enumerate(ordered))


def _rank(key: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest(), "big")
