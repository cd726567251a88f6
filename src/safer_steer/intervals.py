"""The 95 % intervals of the metrics: of a share, of a mean of shares over suites, of the difference of two
models, and over training seeds.

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
FEW = 12
"""With fewer dialogues in a suite, each suite's own spread says little: of one dialogue in each of five
suites the interval would contain the true value in 6 of 10 cases."""


def rate(
    counts: Sequence[tuple[float, int]], *, resamples: int = 10_000, seed: int = 0
) -> dict[str, float | None]:
    """The mean over suites of the share of dialogues that pass, with its interval.

    A bootstrap over dialogues would give [0, 0] if no dialogue passes. The interval is therefore that of the
    posterior: the share of a suite is Beta(passed + a, n - passed + a). With one suite, a is 1/2 (Jeffreys)
    and the interval is the posterior's quantiles. With m suites, a is 1 / (2 m), and the interval is the
    percentiles of the mean of one draw per suite: a prior of 1/2 in each would add m / 2 passing dialogues
    and give poor coverage near 0. Where a suite has fewer than `FEW` dialogues, it also contains the interval
    of one suite with this value and as many dialogues as have the same error, m^2 / sum(1 / n). If no
    dialogue of any suite passes, the lower end is 0; if all do, the upper end is 100.

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
    low, high = _beta_quantiles(*counts[0]) if len(counts) == 1 else _interval(counts, resamples, seed)
    if together := _together([n for _, n in counts]):
        ends = _beta_quantiles(value / 100 * together, together)
        low, high = min(low, ends[0]), max(high, ends[1])
    # The posterior is biased towards 1/2: with suites of very different size, the value could fall outside.
    low = 0.0 if all(not passed for passed, _ in counts) else min(low, value)
    high = 100.0 if all(passed == n for passed, n in counts) else max(high, value)
    return {"value": value, "low": low, "high": high}


def _together(sizes: Sequence[int]) -> float | None:
    """The size of one suite whose mean has the error of a mean over these, if all were alike; None unless
    there are several, and one has fewer than `FEW`."""
    return len(sizes) ** 2 / sum(1 / n for n in sizes) if len(sizes) > 1 and min(sizes) < FEW else None


def alike(values: Collection[float]) -> bool:
    """Whether all values are the same up to rounding, so that every resample of them is."""
    return not values or max(values) - min(values) < 1e-9


def paired(*suites: Sequence[float]) -> dict[str, float | None]:
    """The mean of differences between two outcomes of the same cases, in points; of several suites, the mean
    of their means.

    A bootstrap over cases would give [0, 0] if all have the same outcome in both. The interval is therefore
    Wald's with two cases added, one gained and one lost (Bonett and Price 2012). With m suites, each gets
    the m-th part of both, and where one has fewer than `FEW` cases, that of one suite is contained, as in
    `rate`.

    Args:
        suites: for each suite, the difference of each case: 1 if it passes only with the first, -1 if only
            with the second, else 0; or the difference of two shares.

    Returns:
        `{"value", "low", "high"}`, -100 to 100; each None if there is no suite, or a suite has no case.
    """
    if not suites or not all(suites):
        return {"value": None, "low": None, "high": None}
    means = [(len(one), sum(one) / len(one), sum(d * d for d in one) / len(one)) for one in suites]
    value, square = (sum(column) / len(suites) for column in list(zip(*means, strict=True))[1:])
    ends = _bonett(means)
    if together := _together([len(one) for one in suites]):
        ends += _bonett([(together, value, square)])
    limit = max(1.0, *(abs(one) for differences in suites for one in differences))
    low, high = (100 * max(-limit, min(limit, end)) for end in (min(ends), max(ends)))
    return {"value": 100 * value, "low": min(low, 100 * value), "high": max(high, 100 * value)}


def _bonett(suites: Sequence[tuple[float, float, float]]) -> list[float]:
    """The ends of `paired`'s interval, from size, mean and mean square of each suite."""
    middle = variance = 0.0
    for n, mean, square in suites:
        cases = n + 2 / len(suites)
        centre = mean * n / cases
        middle += centre / len(suites)
        variance += ((square * n + 2 / len(suites)) / cases - centre**2) / cases / len(suites) ** 2
    return [middle - Z * variance**0.5, middle + Z * variance**0.5]


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
    draws = [random.beta(passed + 0.5, n - passed + 0.5, resamples) for passed, n in (ours, theirs)]
    value = 100 * (ours[0] / ours[1] - theirs[0] / theirs[1])
    low, high = percentiles(100 * (draws[0] - draws[1]))
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


def rate_over_seeds(hits: Mapping[Any, Mapping[str, float]]) -> dict[str, Any]:
    """A rate over training seeds, all measured on the same dialogues.

    Args:
        hits: for every training seed, 0 or 1 by dialogue id (from `metrics.outcomes`), or shares by intent.

    Returns:
        The form of `difference_over_seeds`, 0-100. A single seed gets the interval of `rate`. So do
        several seeds if all marks are the same, because every resample is then the same. Each dialogue counts
        once in that interval, since the seeds share them.
    """
    nothing = {run: dict.fromkeys(passed, 0) for run, passed in hits.items()}
    over_seeds = difference_over_seeds(hits, nothing)
    dialogues = len({id for passed in hits.values() for id in passed})
    marks = [mark for passed in hits.values() for mark in passed.values()]
    if marks and alike(marks):
        over_seeds |= rate([(dialogues * marks[0], dialogues)])
    elif marks and len(hits) == 1:
        over_seeds |= rate([(sum(marks), dialogues)])
    for ends in (over_seeds, over_seeds["t"]):  # a difference may be below 0, a rate may not
        if ends and ends["low"] is not None:
            ends["low"] = max(0.0, ends["low"])
    return over_seeds


def difference_over_seeds(
    ours: Mapping[Any, Mapping[Any, float]],
    baseline: Mapping[Any, Mapping[Any, float]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The difference of a rate between two models, `ours` - `baseline`, in percentage points, paired by
    training seed and dialogue.

    Args:
        ours: for every training seed, 0 or 1 by dialogue id (from `metrics.outcomes`).
        baseline: the same for the other model, with the same seeds (a model trained once is repeated under
            each seed). Ids that only one side has are left out.

    Returns:
        `{"value", "low", "high", "t": {"low", "high"}, "n", "seeds"}`; `n` is the number of pairs. `low` and
        `high` come from resampling training seeds and dialogues, with replacement and independently, since
        every seed plays each dialogue (the crossed or "pigeonhole" bootstrap, Owen 2007). If all pairs have
        the same outcomes, every resample is the same; the interval is then that of `paired`, with
        each dialogue once. So is that of a single seed. With fewer than 2 `FEW` dialogues the bootstrap is
        far too narrow, so the interval also contains that of each dialogue's mean. With few seeds that differ
        much it is too narrow, too; `t` therefore adds Student's interval over the seeds' mean differences.
        `t` is None for a single seed, and if all seeds' means are equal: how much seeds differ is then
        unknown.

    Raises:
        ValueError: the two sides have different seeds.
    """
    if set(ours) != set(baseline):
        raise ValueError(f"seeds differ: {sorted(map(str, ours))} and {sorted(map(str, baseline))}")
    import numpy as np  # imported here because it loads slowly

    seeds = list(ours)
    ids = sorted({id for run in seeds for id in ours[run].keys() & baseline[run].keys()})
    both = np.array(
        [[id in ours[run] and id in baseline[run] for id in ids] for run in seeds], dtype=float
    ).reshape(len(seeds), len(ids))
    gain = (
        np.array(
            [[ours[run].get(id, 0) - baseline[run].get(id, 0) for id in ids] for run in seeds], dtype=float
        ).reshape(both.shape)
        * both
    )
    counts = {"n": int(both.sum()), "seeds": len(seeds)}
    if not counts["n"]:
        return {"value": None, "low": None, "high": None, "t": None, **counts}
    sums = zip(gain.sum(axis=1), both.sum(axis=1), strict=True)
    means = [100 * float(gained / pairs) for gained, pairs in sums if pairs]
    random = np.random.default_rng(seed)
    # How often each seed [resamples, seeds] and each dialogue [resamples, dialogues] was drawn.
    drawn_seeds = random.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=resamples)
    drawn_ids = random.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=resamples)
    weight = ((drawn_seeds @ both) * drawn_ids).sum(axis=1)
    total = ((drawn_seeds @ gain) * drawn_ids).sum(axis=1)
    value = float(100 * gain.sum() / both.sum())
    low, high = percentiles(100 * total[weight > 0] / weight[weight > 0])
    ends: dict[str, float | None] = {"low": low, "high": high}
    gains = gain[both == 1].tolist()
    if len(seeds) == 1 or alike(gains):
        ends = paired(gains[: len(ids)])
    elif (paired_ids := both.any(axis=0)).sum() < 2 * FEW:
        own = paired((gain.sum(axis=0) / both.sum(axis=0).clip(1))[paired_ids].tolist())
        ends = {"low": min(low, own["low"] or 0.0), "high": max(high, own["high"] or 0.0)}
    return {**ends, "value": value, "t": t_interval(means, (-100.0, 100.0)), **counts}


def clustered(groups: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    """The mean of values that come in groups, such as the turns of one script, and its standard error: values
    of one group may be alike, groups are independent. The error is None with fewer than two groups.

    Args:
        groups: at least one value.
    """
    count = sum(map(len, groups))
    mean = sum(map(sum, groups)) / count
    if len(groups) < 2:
        return mean, None
    squares = sum((sum(group) - mean * len(group)) ** 2 for group in groups)
    return mean, (len(groups) / (len(groups) - 1) * squares) ** 0.5 / count


def of_groups(groups: Sequence[Sequence[float]]) -> dict[str, float | None]:
    """The mean as `clustered` gives it, with Student's t interval over the groups.

    Returns:
        `{"value", "low", "high"}`; the ends are None with fewer than two groups, and where all groups have
        the same mean, since a spread of 0 is not informative.
    """
    value, error = clustered(groups)
    if error is None or error < 1e-9:
        return {"value": value, "low": None, "high": None}
    from scipy.special import stdtrit

    half = float(stdtrit(len(groups) - 1, 1 - TAIL)) * error
    return {"value": value, "low": value - half, "high": value + half}


POWER = 0.8
"""The chance of telling a true difference that is usual in planning experiments (Cohen 1988)."""


def detectable(difference: Mapping[str, Any]) -> float | None:
    """The true difference, in points, that an experiment like this one tells with probability `POWER`.

    It is told where both intervals exclude 0. For Student's t over the seeds that is the noncentrality at
    which it does, times the standard error; for the interval over seeds and dialogues, the normal
    approximation. The larger of the two is returned. The spread is this experiment's own, so with few seeds
    it is a rough number. Where few pairs differ, their spread says little: the interval then counts as no
    shorter than that of `paired` for dialogues of which none differs.

    Args:
        difference: of `difference_over_seeds`.

    Returns:
        Points, above 0; None without a t interval (one seed, or means that are all equal), and where no true
        difference would be told so often.
    """
    t = difference["t"]
    if t is None or difference["low"] is None:
        return None
    from scipy.special import nctdtrinc, ndtri, stdtrit

    seeds = difference["seeds"]
    beyond = float(stdtrit(seeds - 1, 1 - TAIL))
    half = (t["high"] - t["low"]) / 2
    if t["low"] <= -100 or t["high"] >= 100:  # cut off there
        half = max(t["high"] - difference["value"], difference["value"] - t["low"])
    by_seeds = half / beyond * float(nctdtrinc(seeds - 1, 1 - POWER, beyond))
    nowhere: Mapping[str, Any] = paired([0.0] * max(1, difference["n"] // seeds))
    length = max(ends["high"] - ends["low"] for ends in (difference, nowhere))
    by_all = length / 2 / Z * (Z + float(ndtri(POWER)))
    least = max(by_seeds, by_all)
    return least if least <= 100 else None


def percentiles(draws: np.ndarray) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the draws."""
    import numpy as np

    low, high = np.quantile(draws, [TAIL, 1 - TAIL])
    return float(low), float(high)


@cache
def _beta_quantiles(passed: float, n: float) -> tuple[float, float]:
    low, high = (beta_quantile(passed + 0.5, n - passed + 0.5, share) for share in (TAIL, 1 - TAIL))
    return 100 * low, 100 * high


def beta_quantile(a: float, b: float, share: float) -> float:
    """The value below which a Beta(a, b) variable lies with probability `share` (0-1)."""
    from scipy.special import betaincinv  # imported here because it loads slowly

    return float(betaincinv(a, b, share))


def _interval(counts: Sequence[tuple[float, int]], resamples: int, seed: int) -> tuple[float, float]:
    import numpy as np

    random, prior = np.random.default_rng(seed), 0.5 / len(counts)
    passed, sizes = np.array(counts).T
    shares = random.beta(passed + prior, sizes - passed + prior, size=(resamples, len(counts)))
    return percentiles(100 * shares.mean(axis=1))
