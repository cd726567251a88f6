"""The 95 % intervals of the metrics: of a share, of a mean of shares over suites, and over training seeds.

Rates are in percent. `benchmarks/coverage.py` simulates how often the intervals contain the true value
(docs/method.md, "Intervals").
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from math import exp, lgamma, log, log1p
from typing import TYPE_CHECKING

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


def posterior(passed: float, n: int, draws: int, seed: int = 0) -> np.ndarray:
    """Draws of a share (0-1) from the posterior behind the interval of `rate` [draws]."""
    import numpy as np

    drawn: np.ndarray = np.random.default_rng(seed).beta(passed + 0.5, n - passed + 0.5, size=draws)
    return drawn


def alike(values: Collection[float]) -> bool:
    """Whether all values are the same up to rounding, so that every resample of them is."""
    return not values or max(values) - min(values) < 1e-9


def paired(gained: float, lost: float, n: int) -> dict[str, float | None]:
    """The difference of two shares of the same `n` cases, in points: `gained` pass only with the first,
    `lost` only with the second; both are sums of shares where a case passes in part.

    A bootstrap over cases would give [0, 0] if all have the same outcome in both. The interval is therefore
    Wald's with one case added to each of the two counts (Bonett and Price 2012).

    Returns:
        `{"value", "low", "high"}`, -100 to 100; each None if n = 0.
    """
    if not n:
        return {"value": None, "low": None, "high": None}
    value, up, down = 100 * (gained - lost) / n, (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 100 * Z * ((up + down - (up - down) ** 2) / (n + 2)) ** 0.5
    middle = 100 * (up - down)
    low, high = max(-100.0, middle - half), min(100.0, middle + half)
    return {"value": value, "low": min(low, value), "high": max(high, value)}


def t_interval(means: Sequence[float], limits: tuple[float, float]) -> dict[str, float] | None:
    """Student's t interval of the mean of `means` (one per training seed), clipped to `limits`.

    None with fewer than two seeds, or if all means are equal: a spread of 0 among a few seeds is not
    informative.
    """
    if len(means) < 2 or max(means) == min(means):
        return None
    import numpy as np  # imported here because they load slowly
    from scipy.special import stdtrit

    half = float(stdtrit(len(means) - 1, 1 - TAIL)) * float(np.std(means, ddof=1)) / len(means) ** 0.5
    middle = float(np.mean(means))
    return {"low": max(limits[0], middle - half), "high": min(limits[1], middle + half)}


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the draws."""
    import numpy as np

    low, high = np.quantile(drawn, [TAIL, 1 - TAIL])
    return float(low), float(high)


@cache
def _beta_quantiles(passed: float, n: int) -> tuple[float, float]:
    a, b = passed + 0.5, n - passed + 0.5
    return 100 * beta_quantile(a, b, TAIL), 100 * beta_quantile(a, b, 1 - TAIL)


def beta_quantile(a: float, b: float, share: float) -> float:
    """The value below which a Beta(a, b) variable lies with probability `share` (0-1), for a, b >= 1/2.

    `scipy.special.betaincinv` gives the same, but its import takes longer than all the rest of a summary.
    """
    low, high, value = 0.0, 1.0, a / (a + b)
    normal = lgamma(a + b) - lgamma(a) - lgamma(b)
    for _ in range(100):
        beyond = _beta_share(a, b, value) - share
        low, high = (low, value) if beyond > 0 else (value, high)
        density = exp(normal + (a - 1) * log(value) + (b - 1) * log1p(-value))
        newton = value - beyond / density if density else low
        following = newton if low < newton < high else (low + high) / 2
        if abs(following - value) <= 1e-15 * value:
            break
        value = following
    return value


def _beta_share(a: float, b: float, value: float) -> float:
    """The probability that a Beta(a, b) variable lies below `value`: the regularised incomplete beta
    function, by its continued fraction (Numerical Recipes, 6.4)."""
    if value > (a + 1) / (a + b + 2):
        return 1 - _beta_share(b, a, 1 - value)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(value) + b * log1p(-value)) / a
    c, d = 1.0, 1 / (1 - (a + b) * value / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * value / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 / (1 + even * d), 1 + even / c
        fraction *= d * c
        odd = -(a + m) * (a + b + m) * value / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / (1 + odd * d), 1 + odd / c
        fraction *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * fraction


def _drawn(counts: Sequence[tuple[float, int]], resamples: int, seed: int) -> tuple[float, float]:
    import numpy as np

    random, prior = np.random.default_rng(seed), 0.5 / len(counts)
    passed, sizes = np.array(counts).T
    shares = random.beta(passed + prior, sizes - passed + prior, size=(resamples, len(counts)))
    return percentiles(100 * shares.mean(axis=1))
