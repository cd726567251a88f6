"""Rates corrected for the judge's errors by people's labels of some dialogues, both uncertainties propagated.

With at least `ENOUGH` labels of the dialogues that a rate is over, `IN_EACH` of them in each suite, the
labels say how often people pass a dialogue that the judge passes, and one that it fails; the suite's rate
follows (post-stratification, which is prediction-powered inference for a rate). It assumes that the labelled
dialogues of a suite were drawn at random. The mean is over suites.

With fewer, the judge's errors are taken from the labels of all models and suites: its sensitivity (of the
dialogues that people pass, the share that it passes) and specificity (of those that people fail, the share
that it fails). Its rate p then stands for (p + specificity - 1) / (sensitivity + specificity - 1) (Rogan and
Gladen 1978). This assumes that they are the same everywhere; `judge-check` shows them by model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from safer_steer.intervals import TAIL, Z, beta_quantile, percentiles

DRAWS = 10_000
ENOUGH = 30
"""Labelled dialogues of a rate from which it is corrected by its own labels alone."""
IN_EACH = 10
"""Labelled dialogues that each suite of a mean then needs."""


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

    Args:
        counts: (passed by the judge, n) of every suite.
        own: labels of these dialogues, by suite.
        everywhere: labels of all models and suites.
        seed: of the draws from the posterior of the judge's errors everywhere.

    Returns:
        `{"value", "low", "high", "method", "labels"}`, rates 0-100, clipped; None if there is no way to
        correct: a suite is empty, or there are too few own labels and the judge is no better than chance
        elsewhere, or people pass, or fail, no dialogue there.
    """
    if not counts or not all(n for _, n in counts):
        return None
    labels = sum(of_suite.n for of_suite in own)
    if labels >= ENOUGH and all(of_suite.n >= IN_EACH for of_suite in own):
        value, low, high = _by_own_labels(counts, own)
        method = "own labels"
    else:
        found = _by_errors(counts, everywhere, np.random.default_rng(seed))
        if found is None:
            return None
        value, low, high = found
        method, labels = "errors everywhere", everywhere.n
    return {
        "value": 100 * value,
        "low": 100 * min(low, value),
        "high": 100 * max(high, value),
        "method": method,
        "labels": labels,
    }


def _by_own_labels(counts: Sequence[tuple[int, int]], own: Sequence[Labelled]) -> tuple[float, float, float]:
    """Of each suite, P(people pass) = P(judge passes) P(people pass | judge passes) + the same of those that
    it fails; value and interval of the mean, 0-1.

    The interval is Jeffreys' for as many dialogues as would have the estimate's variance (Franco et al.
    2019), fewer by Student's t (Korn and Graubard 1998; degrees of freedom after Satterthwaite).
    """
    value = smoothed = 0.0
    variances = []
    for (hit, n), labels in zip(counts, own, strict=True):
        passing, failing = (labels.both, labels.judge_only), (labels.people_only, labels.neither)
        rate = hit / n
        value += (rate * _share(passing) + (1 - rate) * _share(failing)) / len(own)
        # The variance is that of shares away from 0 and 1, or few labels that agree would have none.
        rate = (hit + 0.5 / len(own)) / (n + 1 / len(own))
        of_rate = _variance(rate, n + 1 + 1 / len(own))
        passes, fails = _share(passing, 0.5), _share(failing, 0.5)
        smoothed += (rate * passes + (1 - rate) * fails) / len(own)
        variances.append(
            of_rate * (passes - fails) ** 2
            + (rate**2 + of_rate) * _variance(passes, sum(passing))
            + ((1 - rate) ** 2 + of_rate) * _variance(fails, sum(failing))
        )
    total = sum(variances)
    freedom = total**2 / sum(one**2 / (labels.n - 1) for one, labels in zip(variances, own, strict=True))
    spread = Z / float(stdtrit(freedom, 1 - TAIL))
    worth = max(smoothed * (1 - smoothed) * len(own) ** 2 / total - 1, 0.0) * spread**2
    a, b = value * worth + 0.5, (1 - value) * worth + 0.5
    low = 0.0 if value == 0 else beta_quantile(a, b, TAIL)
    high = 1.0 if value == 1 else beta_quantile(a, b, 1 - TAIL)
    return value, low, high


def _share(counts: tuple[int, int], prior: float = 0.0) -> float:
    """The first count's share; 1/2 if nothing is counted."""
    hits, misses = counts[0] + prior, counts[1] + prior
    return hits / (hits + misses) if hits + misses else 0.5


def _variance(share: float, n: float) -> float:
    """Of a share of `n` draws."""
    return share * (1 - share) / max(n, 1)


def _by_errors(
    counts: Sequence[tuple[int, int]], errors: Labelled, random: np.random.Generator
) -> tuple[float, float, float] | None:
    """Rogan and Gladen's estimate and its interval, 0-1.

    The interval is that of the posterior: the judge's share of each suite and its errors are drawn from Beta
    distributions with the priors of `intervals.rate`. A draw in which the judge is no better than chance says
    nothing about the rate; it counts as any rate at all.
    """
    sensitivity, specificity = errors.sensitivity, errors.specificity
    if sensitivity is None or specificity is None or sensitivity + specificity <= 1:
        return None
    rate = sum(hit / n for hit, n in counts) / len(counts)
    value = min(max((rate + specificity - 1) / (sensitivity + specificity - 1), 0.0), 1.0)
    prior = 0.5 / len(counts)
    drawn = np.mean([random.beta(hit + prior, n - hit + prior, DRAWS) for hit, n in counts], axis=0)
    true = random.beta(errors.both + 0.5, errors.people_only + 0.5, DRAWS)
    false = random.beta(errors.neither + 0.5, errors.judge_only + 0.5, DRAWS)
    gain = true + false - 1
    known = gain > 0
    draws = np.where(known, (drawn + false - 1) / np.where(known, gain, 1), random.random(DRAWS))
    low, high = percentiles(draws.clip(0, 1))
    return value, low, high
