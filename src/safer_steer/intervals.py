"""The 95 % intervals of the metrics: of a share, of a mean of shares over suites, and over training seeds.

Rates are in percent. `benchmarks/coverage.py` simulates how often the intervals hold the true value
(docs/method.md, "Intervals").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CONFIDENCE = 95.0
TAIL = (100 - CONFIDENCE) / 200
"""The probability beyond each end of an interval, 0-1."""


def rate(
    counts: Sequence[tuple[int, int]], *, resamples: int = 10_000, seed: int = 0
) -> dict[str, float | None]:
    """The mean over suites of the share of dialogues that pass, with its interval.

    A bootstrap over dialogues would say [0, 0] wherever no dialogue passes, so the interval is that of the
    posterior: the share of a suite is Beta(passed + a, n - passed + a). With one suite a is 1/2 (Jeffreys),
    and its quantiles are the interval. With m suites a is 1 / (2 m), and the interval are percentiles of the
    mean of one draw a suite: a prior of 1/2 in each would add up to m / 2 dialogues that pass and cover badly
    near 0. Where no dialogue of any suite passes, the lower end is 0; where all do, the upper end is 100.

    Args:
        counts: (passed, n) of every suite.
        resamples: draws from each suite's posterior; a single suite needs none.
        seed: of the draws.

    Returns:
        `{"value", "low", "high"}`, 0-100; None where there is no suite, or a suite has n = 0.
    """
    if not counts or not all(n for _, n in counts):
        return {"value": None, "low": None, "high": None}
    value = float(np.mean([100 * passed / n for passed, n in counts]))
    low, high = _beta_quantiles(*counts[0]) if len(counts) == 1 else _drawn(counts, resamples, seed)
    # The posterior leans towards 1/2; suites of very different size could push the value out at one end.
    low = 0.0 if all(not passed for passed, _ in counts) else min(low, value)
    high = 100.0 if all(passed == n for passed, n in counts) else max(high, value)
    return {"value": value, "low": low, "high": high}


def t_interval(means: Sequence[float], limits: tuple[float, float]) -> dict[str, float] | None:
    """Student's t interval of the mean of `means`, one of each training seed, cut off at `limits`.

    None with fewer than two seeds, and where all means are equal: a spread of 0 among a few seeds says
    nothing.
    """
    if len(means) < 2 or np.ptp(means) == 0:
        return None
    from scipy.special import stdtrit  # here, for it is slow to load

    half = float(stdtrit(len(means) - 1, 1 - TAIL)) * float(np.std(means, ddof=1)) / len(means) ** 0.5
    middle = float(np.mean(means))
    return {"low": max(limits[0], middle - half), "high": min(limits[1], middle + half)}


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """The ends that leave out 2.5 % of the draws on each side."""
    low, high = np.quantile(drawn, [TAIL, 1 - TAIL])
    return float(low), float(high)


def _beta_quantiles(passed: int, n: int) -> tuple[float, float]:
    from scipy.special import betaincinv  # here, for it is slow to load

    low, high = (100 * float(betaincinv(passed + 0.5, n - passed + 0.5, tail)) for tail in (TAIL, 1 - TAIL))
    return low, high


def _drawn(counts: Sequence[tuple[int, int]], resamples: int, seed: int) -> tuple[float, float]:
    random, prior = np.random.default_rng(seed), 0.5 / len(counts)
    passed, sizes = np.array(counts).T
    shares = random.beta(passed + prior, sizes - passed + prior, size=(resamples, len(counts)))
    return percentiles(100 * shares.mean(axis=1))
