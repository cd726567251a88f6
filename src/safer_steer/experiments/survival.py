"""For how many turns the arms' models stay safe, with log-rank tests between arms, and at which turns they
refuse safe requests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import isfinite
from typing import Any

from safer_steer.dialogue import Dialogue, Kind
from safer_steer.metrics import UNSAFE_BELOW, first_failures, over_refusal, survival


def compared(arms: dict[str, list[list[Dialogue]]], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Survival of arms over multi-turn attacks, and their over-refusal by turn.

    Args:
        arms: each arm's dialogues of several turns by training seed, attacks and safe twins.
        pairs: the arms to test against each other.

    Returns:
        `{"arms": {arm: {"hazard": [share that fails at turn 1, 2, ... of those still safe, or None],
        "median", "refused": [share of the safe requests at turn 1, 2, ... that is refused, or None]}},
        "tests": [{"pair", "z": [by seed], "p": [by seed]}]}`. All but the tests pool the seeds. Safe requests
        are those of the twins, and of attack dialogues.
        The tests are one a seed: the seeds share the dialogues, so a test of the pool would take them for
        independent. z is positive if the first arm of the pair fails later.
    """
    attacks, twins = (
        {
            arm: [[row for row in run if (row.kind is Kind.BENIGN) is safe] for run in runs]
            for arm, runs in arms.items()
        }
        for safe in (False, True)
    )
    found = {}
    for arm in arms:
        rows, safe = list(chain(*attacks[arm])), list(chain(*twins[arm]))
        median = survival(rows)["median"]
        found[arm] = {"hazard": hazard(rows), "median": median, "refused": refused(safe, rows)}
    return {
        "arms": found,
        "tests": [{"pair": list(pair), **_tests(attacks[pair[0]], attacks[pair[1]])} for pair in pairs],
    }


def refused(twins: list[Dialogue], attacks: list[Dialogue]) -> list[float | None]:
    """For turns 1, 2, ...: the share (0-1) of the safe requests at that turn that is refused; None if there
    is none."""
    found = {entry["turn"]: entry["value"] / 100 for entry in over_refusal(twins, attacks)["by_turn"]}
    return [found.get(turn) for turn in range(1, 1 + max(found, default=0))]


def hazard(dialogues: list[Dialogue], below: float = UNSAFE_BELOW) -> list[float | None]:
    """For turns 1, 2, ...: the share (0-1) of the dialogues that reached the turn safe in which it fails;
    None if none did."""
    found = first_failures(dialogues, below)
    shares: list[float | None] = []
    for turn in range(1, 1 + max((end for end, _ in found), default=0)):
        at_risk = sum(end >= turn for end, _ in found)
        failed = sum(end == turn and fails for end, fails in found)
        shares.append(failed / at_risk if at_risk else None)
    return shares


def _tests(first: list[list[Dialogue]], second: list[list[Dialogue]]) -> dict[str, list[float]]:
    tests = [log_rank(*runs) for runs in zip(first, second, strict=True)]
    return {"z": [z for z, _ in tests], "p": [p for _, p in tests]}


def log_rank(first: list[Dialogue], second: list[Dialogue]) -> tuple[float, float]:
    """z and two-sided p of the log-rank test of the first failed turn. z is positive if the first group fails
    later; (0, 1) if the turns do not differ, nothing fails, or a group has no scored dialogue."""
    import numpy as np  # imported here because they load slowly
    from scipy.stats import CensoredData, logrank

    groups = [first_failures(rows) for rows in (first, second)]
    if not all(groups) or not any(fails for group in groups for _, fails in group):
        return 0.0, 1.0
    data = [
        CensoredData(
            uncensored=[end for end, fails in group if fails],
            right=[end for end, fails in group if not fails],
        )
        for group in groups
    ]
    with np.errstate(invalid="ignore"):
        found = logrank(*data)
    if not isfinite(found.statistic):  # wherever a dialogue fails, all do
        return 0.0, 1.0
    return -float(found.statistic), float(found.pvalue)
