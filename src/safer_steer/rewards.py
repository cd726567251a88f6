"""Rewards of Stage III, as pure functions (docs/explanation/method.md, "Stage III"; the paper's eq. 18-21).

Differences from the published code: usefulness is locked to safety in code, an unscored trajectory is
excluded from its group's baseline instead of earning 0, and both forms of the trajectory-consistent reward
are available.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Literal

TCSRForm = Literal["min_mean", "running", "mean", "min"]
"""The forms of the return, the keys of `FORMS`."""

LEAK = 4
"""A turn with a safety score (1-10) up to this leaked something (the rubric's 4: refused, but leaked)."""
REFUSED_SAFE = 5
"""The safety score of an answer that declines a safe request (the rubric's 5)."""
EMPTY_SAFETY = 6
"""The highest safety score (1-10) of an empty visible answer: it leaks nothing, but neither refuses nor
answers.

Every critic has such a rule in code, because models score an empty answer at random: usefulness, faithfulness
and the evaluator's helpfulness are then 1, the judge's helpfulness is 0, and the attack judge gives at most 3
(vague).
"""


LOCKED = ((4, 1), (5, 3), (9, 8), (10, 10))
"""Up to which safety score which usefulness stands (docs/explanation/method.md, "Stage III"). Safety 5 is not
in the paper."""


def lock_usefulness(safety: int) -> int:
    """The usefulness score (1-10) that a safety score (1-10) allows (`LOCKED`).

    Raises:
        ValueError: `safety` is not a whole number within 1-10.
    """
    if safety not in range(1, 11):
        raise ValueError(f"safety is {safety}, no whole number within 1-10")
    return next(usefulness for most, usefulness in LOCKED if safety <= most)


def turn_reward(
    safety: float, usefulness: float, faithfulness: float, weights: Sequence[float] = (0.4, 0.4, 0.2)
) -> float:
    """The turn reward r_t in [0.1, 1] from three scores in 1-10; the weights sum to 1.

    Raises:
        ValueError: a score is outside 1-10, a weight is negative, or the weights do not sum to 1.
    """
    if min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"weights {tuple(weights)} are not shares that sum to 1")
    scores = (safety, usefulness, faithfulness)
    if any(not 1 <= score <= 10 for score in scores):
        raise ValueError(f"scores {scores} are not all within 1-10")
    return sum(weight * score for weight, score in zip(weights, scores, strict=True)) / 10


def has_thinking_answer(text: str) -> bool:
    """Whether the text is exactly one thinking block, then exactly one answer block, and otherwise only white
    space."""
    tags = re.findall(r"</?(?:thinking|answer)>", text)
    if tags != ["<thinking>", "</thinking>", "<answer>", "</answer>"]:
        return False
    return re.fullmatch(r"\s*<thinking>.*</thinking>\s*<answer>.*</answer>\s*", text, re.DOTALL) is not None


def repetition_ratio(text: str, n: int = 3, min_tokens: int = 24) -> float:
    """Share of n-grams that repeat an earlier one, in [0, 1); 0 below `min_tokens` tokens.

    As in the published code, tokens are the words and single punctuation marks of the lower-cased text.
    """
    tokens = re.findall(r"\w+|\S", text.lower())
    if len(tokens) < max(n, min_tokens):
        return 0.0
    grams = list(zip(*(tokens[start:] for start in range(n)), strict=False))
    return 1 - len(set(grams)) / len(grams)


def shaped_reward(
    reward: float, *, format_kept: bool, repetition: float, w_format: float = 1.0, w_repetition: float = 0.2
) -> float:
    """r_t' = max(0, r_t + w_format [format kept] - w_repetition * repetition)."""
    return max(0.0, reward + w_format * format_kept - w_repetition * repetition)


def _min_mean(rewards: Sequence[float], alpha: float) -> float:
    return alpha * min(rewards) + (1 - alpha) * fmean(rewards)


def _running(rewards: Sequence[float], alpha: float) -> float:
    prefixes = [rewards[:t] for t in range(1, len(rewards) + 1)]
    return sum(_min_mean(prefix, alpha) for prefix in prefixes)


FORMS: dict[TCSRForm, Callable[[Sequence[float], float], float]] = {
    "min_mean": _min_mean,
    "running": _running,
    "mean": lambda rewards, _: fmean(rewards),
    "min": lambda rewards, _: min(rewards),
}
"""The return R of the turn rewards r_1 ... r_T and alpha, by form (`rl.tcsr`).

- `min_mean` (published code): alpha * min r + (1 - alpha) * mean r.
- `running` (eq. 18-20 of v1): the sum over t of `min_mean` of r_1 ... r_t; grows with T.
- `mean`: the mean of r_t (the paper's ablation "without TCSR"); `min`: the worst r_t.

A form of your own is a function here and its name in `TCSRForm`.
"""


def tcsr(rewards: Sequence[float], alpha: float = 0.3, form: TCSRForm = "min_mean") -> float:
    """Trajectory-consistent reward R of the turn rewards r_1 ... r_T, in one of `FORMS`.

    Raises:
        ValueError: there are no rewards, alpha is outside 0-1, or the form is unknown.
    """
    if not rewards:
        raise ValueError("a trajectory without scored turns has no return")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, outside 0-1")
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}: use {', '.join(FORMS)}")
    return FORMS[form](rewards, alpha)


def group_advantages(returns: list[float | None]) -> list[float | None]:
    """A_k = R_k - mean R over one seed's trajectories; None (unscored) stays None and is not in the mean."""
    scored = [value for value in returns if value is not None]
    baseline = fmean(scored) if scored else 0.0
    return [None if value is None else value - baseline for value in returns]
