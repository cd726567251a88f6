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
    most = evenly(sizes, longest, in_all)
    for (row, key), size in zip(places, sizes, strict=True):
        if size > most:
            head = _head(row[key], size, most)
            row["cut"] = row.get("cut", 0) + len(row[key]) - len(head)
            row[key] = f"{head} …"


SHOWN = ("intent", "source", "error", "user", "thought", "thinking", "answer", "reason", "unscored")
"""The keys of texts."""


def _texts(suites: list[dict[str, Any]]) -> Iterator[Place]:
    for suite in suites:
        for script in suite["scripts"]:
            yield from _of(script, *script.get("asked", ()))
            for answer in script["answers"]:
                yield from _of(answer)
                turns = answer.get("turns", ())
                others = [*answer.get("taken", ()), *(one for turn in turns for one in turn.get("taken", ()))]
                for turn in (*turns, *others):
                    yield from _of(turn, *([turn["asked"]] if "asked" in turn else ()))


def _of(*rows: dict[str, Any]) -> Iterator[Place]:
    return ((row, key) for row in rows for key in SHOWN if row.get(key))


def _size(text: str) -> int:
    """Bytes of the text in JSON without its quotes. Only ASCII is written, so other characters take more."""
    return len(json.dumps(text)) - 2


def evenly(sizes: list[int], longest: int, in_all: int) -> int:
    """The size, at most `longest`, to cut things of these sizes to, so that they take `in_all` together."""
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
