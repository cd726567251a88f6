"""Rates corrected for the judge's errors by people's labels of some dialogues, both uncertainties propagated.

With at least `ENOUGH` labels of the dialogues that a rate is over, the labels say how often people pass a
dialogue that the judge passes, and one that it fails; the rate follows (post-stratification, which is
prediction-powered inference for a rate). It assumes that the labelled dialogues were drawn at random. In the
mean over suites, a label counts inversely to the size of its suite, as a dialogue does; every suite must have
a label.

With fewer, the judge's errors are taken from the labels of all models and suites: its sensitivity (of the
dialogues that people pass, the share that it passes) and specificity (of those that people fail, the share
that it fails). Its rate p then stands for (p + specificity - 1) / (sensitivity + specificity - 1) (Rogan and
Gladen 1978). This assumes that they are the same everywhere; `judge-check` shows them by model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from safer_steer.intervals import percentiles

DRAWS = 10_000
ENOUGH = 30
"""Labelled dialogues of a rate from which it is corrected by its own labels alone."""


class Labelled(NamedTuple):
    """Counts of dialogues with labels, by people's and the judge's outcome."""

    both: int = 0
    people_only: int = 0
    judge_only: int = 0
    neither: int = 0

    @property
    def n(self) -> int:
        return sum(self)

    @property
    def sensitivity(self) -> float | None:
        passed = self.both + self.people_only
        return self.both / passed if passed else None

    @property
    def specificity(self) -> float | None:
        failed = self.neither + self.judge_only
        return self.neither / failed if failed else None


def corrected_rate(
    counts: Sequence[tuple[int, int]], own: Sequence[Labelled], everywhere: Labelled, seed: int = 0
) -> dict[str, Any] | None:
    """The mean over suites of the share that passes, corrected.

    The interval is that of the posterior: the judge's share of each suite and its errors are drawn from Beta
    distributions with the priors of `intervals.rate`.

    Args:
        counts: (passed by the judge, n) of every suite.
        own: labels of these dialogues, by suite.
        everywhere: labels of all models and suites.

    Returns:
        `{"value", "low", "high", "method", "labels"}`, rates 0-100, clipped; None if there is no way to
        correct: a suite is empty, or there are too few own labels and the judge is no better than chance
        elsewhere, or people pass, or fail, no dialogue there.
    """
    if not counts or not all(n for _, n in counts):
        return None
    random, prior = np.random.default_rng(seed), 0.5 / len(counts)
    drawn = np.mean([random.beta(hit + prior, n - hit + prior, DRAWS) for hit, n in counts], axis=0)
    rate = sum(hit / n for hit, n in counts) / len(counts)
    labels = sum(of_suite.n for of_suite in own)
    if labels >= ENOUGH and all(of_suite.n for of_suite in own):
        sizes = [n for _, n in counts]
        value, draws = _by_own_labels(rate, drawn, sizes, own, random)
        method = "own labels"
    else:
        found = _by_errors(rate, drawn, everywhere, random)
        if found is None:
            return None
        value, draws = found
        method, labels = "errors everywhere", everywhere.n
    low, high = percentiles(100 * draws)
    value = 100 * value
    return {
        "value": value,
        "low": min(low, value),
        "high": max(high, value),
        "method": method,
        "labels": labels,
    }


def _beta(hits: float, misses: float, random: np.random.Generator) -> np.ndarray:
    return random.beta(hits + 0.5, misses + 0.5, DRAWS)


def _by_own_labels(
    rate: float, drawn: np.ndarray, sizes: Sequence[int], own: Sequence[Labelled], random: np.random.Generator
) -> tuple[float, np.ndarray]:
    """P(people pass) = P(judge passes) P(people pass | judge passes) + the same of those that it fails."""
    weights = [1 / size for size in sizes]

    def counted(hits: Sequence[int], misses: Sequence[int]) -> tuple[float, float]:
        """Weighted counts, in all as many as the labels are worth (Kish's effective number)."""
        labels = np.array([hits, misses])
        weight, squares = (labels @ np.power(weights, power) for power in (1, 2))
        worth = weight.sum() / squares.sum() if squares.sum() else 0.0
        return float(weight[0] * worth), float(weight[1] * worth)

    def share(hits: float, misses: float) -> float:
        return hits / (hits + misses) if hits + misses else 0.5

    passed = counted([one.both for one in own], [one.judge_only for one in own])
    failed = counted([one.people_only for one in own], [one.neither for one in own])
    value = rate * share(*passed) + (1 - rate) * share(*failed)
    return value, drawn * _beta(*passed, random) + (1 - drawn) * _beta(*failed, random)


def _by_errors(
    rate: float, drawn: np.ndarray, errors: Labelled, random: np.random.Generator
) -> tuple[float, np.ndarray] | None:
    """Rogan and Gladen's estimate. A draw in which the judge is no better than chance says nothing about the
    rate; it counts as any rate at all."""
    sensitivity, specificity = errors.sensitivity, errors.specificity
    if sensitivity is None or specificity is None or sensitivity + specificity <= 1:
        return None
    value = min(max((rate + specificity - 1) / (sensitivity + specificity - 1), 0.0), 1.0)
    true, false = (
        _beta(errors.both, errors.people_only, random),
        _beta(errors.neither, errors.judge_only, random),
    )
    gain = true + false - 1
    known = gain > 0
    draws = np.where(known, (drawn + false - 1) / np.where(known, gain, 1), random.random(DRAWS))
    return value, draws.clip(0, 1)
