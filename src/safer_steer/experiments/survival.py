"""For how many turns the arms' models stay safe, with paired log-rank tests between arms, and at which turns
they refuse safe requests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from safer_steer.dialogue import Dialogue, Kind
from safer_steer.metrics import TOLERANCE, UNSAFE_BELOW, first_failures, over_refusal, survival

Scripts = dict[str, Dialogue]
"""A model's dialogues by suite and script."""
RESAMPLES = 9999
"""Random exchanges of a test's pairs; with up to 13 pairs that differ, all of them are tried."""


def compared(arms: dict[str, list[Scripts]], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Survival of arms over multi-turn attacks, and their over-refusal by turn. `arms` has each arm's
    dialogues of several turns by training seed, attacks and safe twins; `pairs` are the arms to test against
    each other.

    Returns `{"arms": {arm: {"hazard": [share that fails at turn 1, 2, ... of those still safe, or None],
    "median", "refused": [share of the safe requests at turn 1, 2, ... that is refused, or None]}}, "tests":
    [{"pair", "z": [by seed], "p": [by seed]}]}`. All but the tests pool the seeds. Safe requests are those of
    the twins, and of attack dialogues. The tests are one a seed: the seeds share the dialogues, so a test of
    the pool would take them for independent. z is positive if the first arm of the pair fails later."""
    attacks, twins = (
        {
            arm: [{key: row for key, row in run.items() if (row.kind is Kind.BENIGN) is safe} for run in runs]
            for arm, runs in arms.items()
        }
        for safe in (False, True)
    )
    by_arm = {}
    for arm in arms:
        rows, safe = (list(chain(*(run.values() for run in runs[arm]))) for runs in (attacks, twins))
        median = survival(rows)["median"]
        by_arm[arm] = {"hazard": hazard(rows), "median": median, "refused": refused(safe, rows)}
    return {
        "arms": by_arm,
        "tests": [{"pair": list(pair), **_tests(attacks[pair[0]], attacks[pair[1]])} for pair in pairs],
    }


def refused(twins: list[Dialogue], attacks: list[Dialogue]) -> list[float | None]:
    """For turns 1, 2, ...: the share (0-1) of the safe requests at that turn that is refused; None if there
    is none."""
    shares = {entry["turn"]: entry["value"] / 100 for entry in over_refusal(twins, attacks)["by_turn"]}
    return [shares.get(turn) for turn in range(1, 1 + max(shares, default=0))]


def hazard(dialogues: list[Dialogue], below: float = UNSAFE_BELOW) -> list[float | None]:
    """For turns 1, 2, ...: the share (0-1) of the dialogues that reached the turn safe in which it fails;
    None if none did."""
    ends = first_failures(dialogues, below)
    shares: list[float | None] = []
    for turn in range(1, 1 + max((end for end, _ in ends), default=0)):
        at_risk = sum(end >= turn for end, _ in ends)
        failed = sum(end == turn and fails for end, fails in ends)
        shares.append(failed / at_risk if at_risk else None)
    return shares


def _tests(first: list[Scripts], second: list[Scripts]) -> dict[str, list[float]]:
    tests = [log_rank(*runs) for runs in zip(first, second, strict=True)]
    return {"z": [z for z, _ in tests], "p": [p for _, p in tests]}


def log_rank(
    first: Scripts, second: Scripts, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """z and two-sided p of the log-rank test of the first failed turn, paired by script: both models were
    attacked with the same ones, and a hard script fails early in both. A test of two independent groups would
    almost never reject. z is positive if the first group fails later; (0, 1) if no script has different
    scores.

    A dialogue's log-rank score is 1 if it fails, minus the pooled Nelson-Aalen hazard up to its last turn.
    The sum of one group's scores is the log-rank statistic. If the models do not differ, the two dialogues of
    a script may be exchanged, which flips the sign of the difference of their scores: z is the sum of the
    differences by its standard deviation under all exchanges, p the share of exchanges (or of `resamples`
    that are drawn with `seed`) with a sum as extreme (O'Brien and Fleming 1987). Scripts without a result in
    one of the two are left out."""
    import numpy as np  # imported here because they load slowly
    from scipy.stats import permutation_test

    ends = [
        (*one, *other)
        for key in sorted(first.keys() & second.keys())  # the draws follow this order
        for one in first_failures([first[key]])
        for other in first_failures([second[key]])
    ]
    turns = np.array([[one, other] for one, _, other, _ in ends], dtype=int).reshape(-1, 2)
    failed = np.array([[one, other] for _, one, _, other in ends], dtype=bool).reshape(-1, 2)
    hazards = [
        (failed & (turns == turn)).sum() / (turns >= turn).sum()
        for turn in range(1, 1 + turns.max(initial=0))
    ]
    scores = failed - np.cumsum([0.0, *hazards])[turns]
    scores = scores[np.abs(scores[:, 0] - scores[:, 1]) > TOLERANCE]
    apart = scores[:, 1] - scores[:, 0]
    if len(scores) < 2:
        return float(np.sign(apart.sum())), 1.0

    def later(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
        return np.sum(other - one, axis=axis)

    test = permutation_test(
        (scores[:, 0], scores[:, 1]),
        later,
        permutation_type="samples",
        n_resamples=resamples,
        batch=1000,
        rng=seed,
    )
    return float(apart.sum() / np.sqrt((apart**2).sum())), float(test.pvalue)
