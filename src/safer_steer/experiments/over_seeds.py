"""Rates and differences of models that were trained with several seeds and measured on the same dialogues
(docs/explanation/method.md, "Intervals"). In percent and percentage points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safer_steer.intervals import alike, paired, percentiles, rate, t_interval


def rate_over_seeds(
    hits: Mapping[Any, Mapping[str, float]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """A rate over training seeds, all measured on the same dialogues.

    Args:
        hits: for every training seed, 0 or 1 by dialogue id (from `outcomes`), or shares by intent.

    Returns:
        The form of `paired_difference`, 0-100. A single seed gets the interval of `intervals.rate`. So do
        several seeds if all marks are the same, because every resample is then the same. Each dialogue counts
        once in that interval, since the seeds share them.
    """
    nothing = {run: dict.fromkeys(passed, 0) for run, passed in hits.items()}
    found = paired_difference(hits, nothing, resamples=resamples, seed=seed)
    dialogues = len({id for passed in hits.values() for id in passed})
    marks = [mark for passed in hits.values() for mark in passed.values()]
    if marks and alike(marks):
        found |= rate([(dialogues * marks[0], dialogues)])
    elif marks and len(hits) == 1:
        found |= rate([(sum(marks), dialogues)])
    if found["t"]:  # a difference may be below 0, a rate may not
        found["t"]["low"] = max(0.0, found["t"]["low"])
    return found


def paired_difference(
    ours: Mapping[Any, Mapping[str, float]],
    baseline: Mapping[Any, Mapping[str, float]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The difference of a rate between two models, `ours` - `baseline`, in percentage points, paired by
    training seed and dialogue.

    Args:
        ours: for every training seed, 0 or 1 by dialogue id (from `outcomes`).
        baseline: the same for the other model, with the same seeds (a model trained once is repeated under
            each seed). Ids that only one side has are left out.

    Returns:
        `{"value", "low", "high", "t": {"low", "high"}, "n", "seeds"}`; `n` is the number of pairs. `low` and
        `high` come from resampling training seeds and dialogues, with replacement and independently, since
        every seed plays each dialogue (the crossed or "pigeonhole" bootstrap, Owen 2007). If all pairs have
        the same outcomes, every resample is the same; the interval is then that of `intervals.paired`, with
        each dialogue once. So is that of a single seed. With few seeds that differ much the bootstrap is too
        narrow; `t` therefore adds Student's interval over the seeds' mean differences. `t` is None for a
        single seed, and if all seeds' means are equal: how much seeds differ is then unknown.

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
    return {**ends, "value": value, "t": t_interval(means, (-100.0, 100.0)), **counts}
