"""How well two raters agree, turn by turn: kappa, alpha, confusion, bias. Pure functions.

Intervals (95 %) are over dialogues, since the turns of one belong together: kappa's from resampling them with
replacement, bias's Student's t.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from safer_steer.intervals import of_groups, percentiles
from safer_steer.metrics import UNSAFE_BELOW

SCORES = {"harmlessness": (-3, 3), "helpfulness": (0, 3)}
"""The judge's scores that are compared, and their ranges."""
RESAMPLES = 1000
ENOUGH = 20
"""Dialogues from which kappa has an interval. Simulated, that of 20 covers the true kappa in 82 %, that of 5
in 49 %."""
APART = 10
"""And dialogues with a turn that is scored otherwise: of two raters that differ in one turn of fifty, it
covers the true kappa of 50 dialogues in 52 %."""


class Pair(NamedTuple):
    """Two raters' scores of one turn."""

    dialogue: str
    turn: int
    """From 1."""
    length: int
    """Characters of the visible answer."""
    first: dict[str, float]
    """The judge's scores by name (`SCORES`)."""
    second: dict[str, float]
    """A person's, another judge's, or the judge's own when it was asked again."""


def compared(pairs: Sequence[Pair], seed: int = 0) -> dict[str, Any]:
    """Everything about two raters.

    Returns:
        `{"turns", "dialogues", "harmlessness": {...}, "helpfulness": {...}, "failures_by_turn": [...]}`. Each
        score has `exact` and `within_one` (percent of the turns), `kappa` (quadratic weights; `{"value",
        "low", "high"}`), `bias` (mean of first - second, the same form), `bias_by` (list of `{"group", "n",
        "value", "low", "high"}`, by answer length and by turn), and `confusion`, `{"second": {"first":
        turns}}`.
    """
    return {
        "turns": len(pairs),
        "dialogues": len({pair.dialogue for pair in pairs}),
        **{score: _of_score(pairs, score, seed) for score in SCORES},
        "failures_by_turn": failures_by_turn(pairs),
    }


def quadratic_kappa(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Cohen's kappa with quadratic weights: 1 - sum(w O) / sum(w E), w = (i - j)^2.

    E, what independent raters with these margins would give, is Var(first) + Var(second) + (difference of
    means)^2. None if both raters gave one and the same score throughout.
    """
    a, b = np.array(first, dtype=float), np.array(second, dtype=float)
    expected = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return float(1 - ((a - b) ** 2).mean() / expected) if expected else None


def alpha(ratings: Sequence[Sequence[float | None]]) -> float | None:
    """Krippendorff's alpha (ordinal) of ratings [raters][turns]; None marks a turn that a rater did not see.
    None if all ratings are one score, or no turn has two."""
    import krippendorff

    data = np.array(ratings, dtype=float)
    data = data[:, (~np.isnan(data)).sum(axis=0) >= 2]
    if len(np.unique(data[~np.isnan(data)])) < 2:
        return None
    return float(krippendorff.alpha(data, level_of_measurement="ordinal"))


def failures_by_turn(pairs: Sequence[Pair]) -> list[dict[str, int]]:
    """Who saw a failure (harmlessness below 2), by turn: `{"turn", "both", "first_only", "second_only",
    "neither"}`."""
    names = {(True, True): "both", (True, False): "first_only", (False, True): "second_only"}
    counts: dict[int, Counter[str]] = {}
    for pair in pairs:
        failures = (pair.first["harmlessness"] < UNSAFE_BELOW, pair.second["harmlessness"] < UNSAFE_BELOW)
        counts.setdefault(pair.turn, Counter())[names.get(failures, "neither")] += 1
    columns = (*names.values(), "neither")
    return [{"turn": turn, **{name: counts[turn][name] for name in columns}} for turn in sorted(counts)]


def _of_score(pairs: Sequence[Pair], score: str, seed: int) -> dict[str, Any]:
    first = np.array([pair.first[score] for pair in pairs])
    second = np.array([pair.second[score] for pair in pairs])
    apart = np.abs(first - second)
    confusion: dict[str, dict[str, int]] = {}
    for (theirs, ours), count in sorted(Counter(zip(second.tolist(), first.tolist(), strict=True)).items()):
        confusion.setdefault(f"{theirs:g}", {})[f"{ours:g}"] = count
    groups = {"all": list(pairs), **_by_length(pairs), **_by_turn(pairs)}
    bias = {name: _bias(group, score) for name, group in groups.items() if group}
    return {
        "exact": float(100 * (apart == 0).mean()),
        "within_one": float(100 * (apart <= 1).mean()),
        "kappa": {"value": quadratic_kappa(first.tolist(), second.tolist()), **_of_kappa(pairs, score, seed)},
        "bias": bias.pop("all"),
        "bias_by": [{"group": name, **means} for name, means in bias.items()],
        "confusion": confusion,
    }


def _by_length(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """The turns in three thirds by the length of the answer."""
    ordered = sorted(pairs, key=lambda pair: pair.length)
    cuts = [round(len(ordered) * part / 3) for part in range(4)]
    return {
        f"{name} answers": ordered[cuts[part] : cuts[part + 1]]
        for part, name in enumerate(("short", "medium", "long"))
    }


def _by_turn(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    turns = sorted({pair.turn for pair in pairs})
    return {f"turn {turn}": [pair for pair in pairs if pair.turn == turn] for turn in turns}


def _sums(pairs: Sequence[Pair], score: str) -> np.ndarray:
    """Of each dialogue: turns, and the sums of a, b, a^2, b^2 and (a - b)^2; [dialogues, 6]."""
    sums: dict[str, np.ndarray] = {}
    for pair in pairs:
        a, b = pair.first[score], pair.second[score]
        sums[pair.dialogue] = sums.get(pair.dialogue, 0) + np.array([1, a, b, a * a, b * b, (a - b) ** 2])
    return np.array(list(sums.values()))


def _resampled(pairs: Sequence[Pair], score: str, seed: int) -> np.ndarray:
    """The means of a, b, a^2, b^2 and (a - b)^2 over resampled dialogues; [5, resamples]."""
    sums = _sums(pairs, score)
    draws = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    totals = sums[draws].sum(axis=1).T
    return totals[1:] / totals[0]


def _bias(pairs: Sequence[Pair], score: str) -> dict[str, float | None]:
    by_dialogue: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        by_dialogue[pair.dialogue].append(pair.first[score] - pair.second[score])
    return {"n": len(pairs), **of_groups(list(by_dialogue.values()))}


def _of_kappa(pairs: Sequence[Pair], score: str, seed: int) -> dict[str, float | None]:
    apart_in = {pair.dialogue for pair in pairs if pair.first[score] != pair.second[score]}
    if len({pair.dialogue for pair in pairs}) < ENOUGH or len(apart_in) < APART:
        return {"low": None, "high": None}
    a, b, squared_a, squared_b, apart = _resampled(pairs, score, seed)
    expected = squared_a - a**2 + squared_b - b**2 + (a - b) ** 2
    defined = expected > 1e-12
    if not defined.any():
        return {"low": None, "high": None}
    low, high = percentiles(1 - apart[defined] / expected[defined])
    return {"low": low, "high": high}
