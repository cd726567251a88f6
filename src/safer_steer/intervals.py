"""The 95 % intervals of the metrics: of a share, of a mean of shares over suites, and over training seeds.

Rates are in percent. `benchmarks/coverage.py` simulates how often the intervals contain the true value
(docs/explanation/method.md, "Intervals").
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 95.0
TAIL = (100 - CONFIDENCE) / 200
"""The probability outside each end of an interval, 0-1."""
Z = 1.959963984540054
"""The standard normal quantile of 1 - `TAIL`."""


def rate(
    counts: Sequence[tuple[float, int]], *, resamples: int = 10_000, seed: int = 0
) -> dict[str, float | None]:
    """The mean over suites of the share of dialogues that pass, with its interval.

    A bootstrap over dialogues would give [0, 0] if no dialogue passes. The interval is therefore that of the
    posterior: the share of a suite is Beta(passed + a, n - passed + a). With one suite, a is 1/2 (Jeffreys)
    and the interval is the posterior's quantiles. With m suites, a is 1 / (2 m), and the interval is the
    percentiles of the mean of one draw per suite: a prior of 1/2 in each would add m / 2 passing dialogues
    and give poor coverage near 0. If no dialogue of any suite passes, the lower end is 0; if all do, the
    upper end is 100.

    Args:
        counts: (passed, n) of every suite; `passed` is a sum of shares where a dialogue passes in part.
        resamples: draws from each suite's posterior; not used for a single suite.
        seed: random seed of the draws.

    Returns:
        `{"value", "low", "high"}`, 0-100; each None if there is no suite, or a suite has n = 0.
    """
    if not counts or not all(n for _, n in counts):
        return {"value": None, "low": None, "high": None}
    value = sum(100 * passed / n for passed, n in counts) / len(counts)
    low, high = _beta_quantiles(*counts[0]) if len(counts) == 1 else _drawn(counts, resamples, seed)
    # The posterior is biased towards 1/2: with suites of very different size, the value could fall outside.
    low = 0.0 if all(not passed for passed, _ in counts) else min(low, value)
    high = 100.0 if all(passed == n for passed, n in counts) else max(high, value)
    return {"value": value, "low": low, "high": high}


def alike(values: Collection[float]) -> bool:
    """Whether all values are the same up to rounding, so that every resample of them is."""
    return not values or max(values) - min(values) < 1e-9


def paired(differences: Sequence[float]) -> dict[str, float | None]:
    """The mean of differences between two outcomes of the same cases, in points.

    A bootstrap over cases would give [0, 0] if all have the same outcome in both. The interval is therefore
    Wald's with two cases added, one gained and one lost (Bonett and Price 2012).

    Args:
        differences: of each case: 1 if it passes only with the first, -1 if only with the second, else 0; or
            the difference of two shares.

    Returns:
        `{"value", "low", "high"}`, -100 to 100; each None if there is no case.
    """
    n = len(differences)
    if not n:
        return {"value": None, "low": None, "high": None}
    value, middle = 100 * sum(differences) / n, sum(differences) / (n + 2)
    variance = (sum(one * one for one in differences) + 2) / (n + 2) - middle**2
    half, limit = Z * (variance / (n + 2)) ** 0.5, max(1.0, *map(abs, differences))
    low, high = (100 * max(-limit, min(limit, middle + sign * half)) for sign in (-1, 1))
    return {"value": value, "low": min(low, value), "high": max(high, value)}


def unpaired(
    ours: tuple[float, int], theirs: tuple[float, int], *, resamples: int = 10_000, seed: int = 0
) -> dict[str, float | None]:
    """The difference of two shares of different cases, in points: percentiles of the difference between one
    draw from each side's posterior, that of `rate`.

    Args:
        ours, theirs: (passed, n), as in `rate`.

    Returns:
        `{"value", "low", "high"}`, -100 to 100; each None if a side has no case.
    """
    if not (ours[1] and theirs[1]):
        return {"value": None, "low": None, "high": None}
    import numpy as np

    random = np.random.default_rng(seed)
    drawn = [random.beta(passed + 0.5, n - passed + 0.5, resamples) for passed, n in (ours, theirs)]
    value, (low, high) = (
        100 * (ours[0] / ours[1] - theirs[0] / theirs[1]),
        percentiles(100 * (drawn[0] - drawn[1])),
    )
    return {"value": value, "low": min(low, value), "high": max(high, value)}


def t_interval(means: Sequence[float], limits: tuple[float, float]) -> dict[str, float] | None:
    """Student's t interval of the mean of `means` (one per training seed), clipped to `limits`.

    None with fewer than two seeds, or if all means are equal up to rounding: a spread of 0 among a few seeds
    is not informative.
    """
    if len(means) < 2 or alike(means):
        return None
    import numpy as np  # imported here because they load slowly
    from scipy.special import stdtrit

    half = float(stdtrit(len(means) - 1, 1 - TAIL)) * float(np.std(means, ddof=1)) / len(means) ** 0.5
    middle = float(np.mean(means))
    return {"low": max(limits[0], middle - half), "high": min(limits[1], middle + half)}


POWER = 0.8
"""The chance of telling a true difference that is usual in planning experiments (Cohen 1988)."""


def detectable(difference: Mapping[str, Any], seeds: int) -> float | None:
    """The true difference, in points, that an experiment like this one tells with probability `POWER`.

    It is told where both intervals exclude 0. For Student's t over the seeds that is the noncentrality at
    which it does, times the standard error; for the interval over seeds and dialogues, the normal
    approximation. The larger of the two is returned. The spread is this experiment's own, so with few seeds
    it is a rough number.

    Args:
        difference: `{"low", "high", "t": {"low", "high"} or None}`, in points.
        seeds: training seeds.

    Returns:
        Points, above 0; None without a t interval (one seed, or means that are all equal).
    """
    t = difference["t"]
    if t is None or difference["low"] is None:
        return None
    from scipy.special import nctdtrinc, ndtri, stdtrit

    beyond = float(stdtrit(seeds - 1, 1 - TAIL))
    by_seeds = (t["high"] - t["low"]) / 2 / beyond * float(nctdtrinc(seeds - 1, 1 - POWER, beyond))
    by_all = (difference["high"] - difference["low"]) / 2 / Z * (Z + float(ndtri(POWER)))
    return max(by_seeds, by_all)


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the draws."""
    import numpy as np

    low, high = np.quantile(drawn, [TAIL, 1 - TAIL])
    return float(low), float(high)


@cache
def _beta_quantiles(passed: float, n: int) -> tuple[float, float]:
    low, high = (beta_quantile(passed + 0.5, n - passed + 0.5, share) for share in (TAIL, 1 - TAIL))
    return 100 * low, 100 * high


def beta_quantile(a: float, b: float, share: float) -> float:
    """The value below which a Beta(a, b) variable lies with probability `share` (0-1)."""
    from scipy.special import betaincinv  # imported here because it loads slowly

    return float(betaincinv(a, b, share))


def _drawn(counts: Sequence[tuple[float, int]], resamples: int, seed: int) -> tuple[float, float]:
    import numpy as np

    random, prior = np.random.default_rng(seed), 0.5 / len(counts)
    passed, sizes = np.array(counts).T
    shares = random.beta(passed + prior, sizes - passed + prior, size=(resamples, len(counts)))
    return percentiles(100 * shares.mean(axis=1))
