"""For how many turns the arms' models stay safe: hazards by turn, and log-rank tests between arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safer_steer.dialogue import Dialogue
from safer_steer.metrics import UNSAFE_BELOW, first_failures, survival


def compared(arms: dict[str, list[list[Dialogue]]], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Survival of arms over the multi-turn attack suites.

    Args:
        arms: each arm's dialogues by training seed.
        pairs: the arms to test against each other.

    Returns:
        `{"arms": {arm: {"hazard": [share that fails at turn 1, 2, ... of those still safe, or None],
        "median"}}, "tests": [{"pair", "z": [by seed], "p": [by seed]}]}`. Hazards and median pool the seeds.
        The tests are one a seed: the seeds share the dialogues, so a test of the pool would take them for
        independent. z is positive if the first arm of the pair fails later.
    """
    pooled = {arm: [row for rows in runs for row in rows] for arm, runs in arms.items()}
    return {
        "arms": {
            arm: {"hazard": hazard(rows), "median": survival(rows)["median"]} for arm, rows in pooled.items()
        },
        "tests": [{"pair": list(pair), **_tests(arms[pair[0]], arms[pair[1]])} for pair in pairs],
    }


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
    later; (0, 1) if nothing fails, or a group has no scored dialogue."""
    from scipy.stats import CensoredData, logrank  # loads slowly

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
    found = logrank(*data)
    return -float(found.statistic), float(found.pvalue)
