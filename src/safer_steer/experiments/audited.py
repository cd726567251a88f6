"""What the audit of Stage III (`rl.audit`) says of an experiment's arms: rewards by step, and whether
`health` notices a drift before the audit's own reward falls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from safer_steer.files.store import read_rows
from safer_steer.report.health import Table
from safer_steer.report.health.drift import Audits
from safer_steer.training.audit import compared

SHOWN = 12
"""Steps in the table at most; of more, the last ones of equal parts."""


def audited(runs: Mapping[str, Mapping[int, Path]]) -> dict[str, Any] | None:
    """By arm, of the runs that were audited; None if none was.

    Args:
        runs: each arm's run folder by seed.

    Returns:
        `{arm: {"steps", "tutor", "audit", "noticed", "fell"}}`: the steps; the mean rewards r_t' by tutor and
        audit of each, over the seeds; and by seed the step at which `health` notices that they drift apart
        or that the tutor's do not follow, and that at which the audit's own reward has fallen by the rule for
        a drift, or None.
    """
    by_arm = {}
    for arm, by_seed in runs.items():
        rewards: dict[int, list[tuple[float, float]]] = {}
        noticed, fell = dict[int, int | None](), dict[int, int | None]()
        for seed, folder in by_seed.items():
            audits = Audits()
            for row in read_rows(folder / "rl" / "trajectories.jsonl"):
                audits.note(row)
            for step, turns in audits.steps.items():
                means = compared(turns)
                rewards.setdefault(step, []).append((means["tutor"], means["audit"]))
            fall = audits.fall()
            noticed[seed], fell[seed] = audits.noticed(), fall.noticed if fall else None
        if rewards:
            steps = sorted(rewards)
            tutor, audit = zip(*(map(fmean, zip(*rewards[step], strict=True)) for step in steps), strict=True)
            by = {"tutor": list(tutor), "audit": list(audit)}
            by_arm[arm] = {"steps": steps, **by, "noticed": noticed, "fell": fell}
    return by_arm or None


def audit_tables(by_arm: Mapping[str, Any]) -> list[Table]:
    """What `audited` found as tables; none without an arm."""
    if not by_arm:
        return []
    steps = max((entry["steps"] for entry in by_arm.values()), key=len)
    count = min(SHOWN, len(steps))
    columns = [steps[len(steps) * part // count - 1] for part in range(1, count + 1)]
    rewards, notices = [], []
    for arm, entry in by_arm.items():
        for by in ("tutor", "audit"):
            means = dict(zip(entry["steps"], entry[by], strict=True))
            rewards.append([arm, by])
            for step in columns:
                rewards[-1].append(f"{means[step]:.2f}" if step in means else "–")
        notices.append([arm, _in_words(entry["noticed"]), _in_words(entry["fell"])])
    return [
        Table(
            "Rewards by tutor and audit",
            "Mean reward of a turn by tutor and audit, over the turns that both scored, all seeds.",
            ["arm", "by", *(f"step {step}" for step in columns)],
            rewards,
        ),
        Table(
            "When the audit notices",
            "The step at which the check of the run's health notices, and that at which the audit's own"
            " reward has fallen by the rule for a drift, for each training seed.",
            ["arm", "noticed", "fallen"],
            notices,
            labels=1,
        ),
    ]


def _in_words(steps: Mapping[Any, int | None]) -> str:
    return ", ".join("never" if step is None else str(step) for step in steps.values())
