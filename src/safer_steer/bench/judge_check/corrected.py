"""Rates corrected for the judge's errors by people's labels of some dialogues, both uncertainties propagated.

With enough labels in each suite that a rate is over (`labels.needed`), they say how often people pass a
dialogue that the judge passes, and one that it fails; the suite's rate follows (post-stratification, which is
prediction-powered inference for a rate). It assumes that the labelled dialogues of a suite were drawn at
random. The mean is over suites.

With fewer there is no corrected rate. The judge's errors cannot be taken from other models' labels instead
(Rogan and Gladen 1978): where it misses more of one model's failures than of another's, that stretches the
difference between the two, and few labels do not show whether it does. `errors_differ` tests it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit
from scipy.stats import MonteCarloMethod, fisher_exact

from safer_steer.bench.judge_check.labels import needed
from safer_steer.intervals import TAIL, Z, beta_quantile


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


def corrected_rate(counts: Sequence[tuple[int, int]], own: Sequence[Labelled]) -> dict[str, Any]:
    """The mean over suites of the share that passes, corrected.

    Args:
        counts: (passed by the judge, n) of every suite.
        own: labels of these dialogues, by suite.

    Returns:
        `{"value", "low", "high", "labels", "in_each", "needed"}`, rates 0-100, clipped. `labels` is their
        number, `in_each` that of the suite with fewest, `needed` the number that each suite needs. The rate
        is None with fewer.
    """
    in_each = min((labels.n for labels in own), default=0)
    about = {"labels": sum(labels.n for labels in own), "in_each": in_each, "needed": needed(len(own))}
    if in_each < about["needed"]:
        return {"value": None, "low": None, "high": None, **about}
    value, low, high = _by_own_labels(counts, own)
    return {"value": 100 * value, "low": 100 * min(low, value), "high": 100 * max(high, value), **about}


def errors_differ(models: Collection[Labelled]) -> dict[str, float | None]:
    """Whether the judge errs alike on all models' dialogues.

    Args:
        models: labels by model.

    Returns:
        `{"sensitivity", "specificity"}`: p of Fisher's exact test of the judge's outcomes by model, over the
        dialogues that people pass and over those that they fail; None if fewer than two models have such. A
        large p from few labels does not say that the errors are alike.
    """
    rows = {
        "sensitivity": [(labels.both, labels.people_only) for labels in models],
        "specificity": [(labels.neither, labels.judge_only) for labels in models],
    }
    return {name: _p_of_table([row for row in table if sum(row)]) for name, table in rows.items()}


def _p_of_table(rows: Sequence[tuple[int, int]]) -> float | None:
    """With three rows and more it has no closed form, and tables are drawn, always the same."""
    table = np.array(rows).reshape(-1, 2)
    if len(table) < 2:
        return None
    if not table.sum(axis=0).all():
        return 1.0
    if len(table) == 2:
        return float(fisher_exact(table).pvalue)
    method = MonteCarloMethod(n_resamples=9999, rng=np.random.default_rng(0))
    return float(fisher_exact(table, method=method).pvalue)


def _by_own_labels(counts: Sequence[tuple[int, int]], own: Sequence[Labelled]) -> tuple[float, float, float]:
    """Of each suite, P(people pass) = P(judge passes) P(people pass | judge passes) + the same of those that
    it fails; value and interval of the mean, 0-1.

    The interval is Jeffreys' for as many dialogues as would have the estimate's variance (Franco et al.
    2019), fewer by Student's t (Korn and Graubard 1998; degrees of freedom after Satterthwaite).
    """
    value = smoothed = 0.0
    variances = []
    every = Labelled(*map(sum, zip(*own, strict=True)))  # for a suite without a label of the kind
    pass_anywhere, fail_anywhere = (
        _share((every.both, every.judge_only)),
        _share((every.people_only, every.neither)),
    )
    for (hit, n), labels in zip(counts, own, strict=True):
        passing, failing = (labels.both, labels.judge_only), (labels.people_only, labels.neither)
        rate = hit / n
        passes, fails = _share(passing, pass_anywhere), _share(failing, fail_anywhere)
        value += (rate * passes + (1 - rate) * fails) / len(own)
        # The variance is that of shares away from 0 and 1, or few labels that agree would have none.
        rate = (hit + 0.5 / len(own)) / (n + 1 / len(own))
        of_rate = _variance(rate, n + 1 + 1 / len(own))
        passes, fails = (_share((hits + 0.5, misses + 0.5)) for hits, misses in (passing, failing))
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


def _share(counts: tuple[float, float], otherwise: float = 0.5) -> float:
    """The first count's share; `otherwise` if nothing is counted."""
    hits, misses = counts
    return hits / (hits + misses) if hits + misses else otherwise


def _variance(share: float, n: float) -> float:
    """Of a share of `n` draws."""
    return share * (1 - share) / max(n, 1)
