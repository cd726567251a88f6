"""Diversity of one strategy's attack turns: distinct-n and mean pairwise similarity, on a bounded sample."""

from __future__ import annotations

import random
import re

SAMPLE = 200
"""Turns kept per strategy. distinct-n falls with the number of texts, so strategies are compared on samples
of the same size."""
PAIRS = 400
"""Most pairs of turns compared."""


class TextSample:
    """A uniform, seeded sample of texts (reservoir sampling). Memory and comparison time do not grow with the
    number of texts."""

    def __init__(self, key: str) -> None:
        """`key` seeds the sample."""
        self.seen = 0
        self.kept: list[list[str]] = []
        self._rng = random.Random(key)

    def add(self, text: str) -> None:
        words = re.findall(r"\w+", text.casefold())
        self.seen += 1
        if len(self.kept) < SAMPLE:
            self.kept.append(words)
        elif (place := self._rng.randrange(self.seen)) < SAMPLE:
            self.kept[place] = words

    def distinct(self, n: int) -> float | None:
        """Distinct word n-grams over all n-grams, 0-1; None without n-grams. Low means repetitive."""
        grams = [
            tuple(words[start : start + n]) for words in self.kept for start in range(len(words) - n + 1)
        ]
        return len(set(grams)) / len(grams) if grams else None

    def similarity(self) -> float | None:
        """Mean Jaccard similarity (0-1) of two turns' word sets, over all pairs or `PAIRS` random ones; None
        with fewer than two turns."""
        count = len(self.kept)
        if count < 2:
            return None
        sets = [set(words) for words in self.kept]
        pairs = [(first, second) for second in range(count) for first in range(second)]
        if len(pairs) > PAIRS:
            pairs = random.Random(0).sample(pairs, PAIRS)
        alike = [
            len(sets[a] & sets[b]) / len(sets[a] | sets[b]) if sets[a] | sets[b] else 1.0 for a, b in pairs
        ]
        return sum(alike) / len(alike)
