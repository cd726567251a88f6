"""Limits the text on the page: a model that never stops would make it larger than a browser opens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

LONGEST = 20_000
"""Most bytes of one text on the page, as JSON writes it."""
IN_ALL = 8_000_000
"""Most bytes of all texts on the page. If they are more, the longest are cut first."""

Place = tuple[dict[str, Any], str]
"""A row of the page's data, and the key of a text in it."""


def shorten(suites: list[dict[str, Any]], longest: int = LONGEST, in_all: int = IN_ALL) -> None:
    """Cut texts in the data of `browser_data`, in place. A row with a cut text gets `cut`, the number of
    characters left out."""
    places = list(_texts(suites))
    sizes = [_size(row[key]) for row, key in places]
    most = _limit(sizes, longest, in_all)
    for (row, key), size in zip(places, sizes, strict=True):
        if size > most:
            kept = _head(row[key], size, most)
            row["cut"] = row.get("cut", 0) + len(row[key]) - len(kept)
            row[key] = f"{kept} …"


def _texts(suites: list[dict[str, Any]]) -> Iterator[Place]:
    for suite in suites:
        for dialogue in suite["dialogues"]:
            yield from ((dialogue, key) for key in ("intent", "source") if dialogue[key])
            for answer in dialogue["answers"]:
                if answer["error"]:
                    yield answer, "error"
                for turn in answer["turns"]:
                    shown = ("user", "thinking", "answer", "reason", "unscored")
                    yield from ((turn, key) for key in shown if turn[key])


def _size(text: str) -> int:
    """Bytes of the text in JSON without its quotes. Only ASCII is written, so other characters take more."""
    return len(json.dumps(text)) - 2


def _limit(sizes: list[int], longest: int, in_all: int) -> int:
    """The size to cut texts to, so that they take `in_all` bytes together."""
    left, waiting = in_all, len(sizes)
    for size in sorted(sizes):
        if size * waiting > left:
            return min(longest, left // waiting)
        left -= size
        waiting -= 1
    return longest


def _head(text: str, size: int, most: int) -> str:
    """The beginning of a text, of at most `most` bytes in JSON."""
    while size > most:
        text = text[: len(text) * most // size]
        size = _size(text)
    return text
