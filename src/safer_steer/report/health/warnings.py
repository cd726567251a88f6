"""Warnings after a stage: one line per problem with its attackers, its judges or its groups."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from safer_steer.bench.adaptive.results import ADAPTIVE
from safer_steer.report.health.stages import examine
from safer_steer.report.health.tally import Groups

WITH_ATTACKERS = ("seeds", "bootstrap", "rl")
"""Stages in which an attacker is at work. The scores of the others are their result. Only in a bench with
attackers that adapt it is both."""
ENOUGH = 20
"""Fewest requests from which a share is meaningful."""
OFTEN = 0.05
"""Share of faults, or of unscored turns, from which a warning is given."""
CONSTANT = 0.99
"""Share of the most common score from which a judge may not be judging."""
MOST = 0.5
"""Share of groups with equal returns above which a warning is given. Few steps are enough: it says what they
taught, not what others would."""

_FAULTS = {"refused": "refusals", "empty": "empty", "repeated": "repeats", "unparsable": "no valid answers"}
_JOBS = {"turn": "turns", "probe": "probes"}
_LABELS = {"red": "red agent"}


def warnings(run: Path, stage: str) -> list[str]:
    """Problems of a stage's attackers, judges and groups, one line each; empty if there are none."""
    adaptive = stage == "bench" and any(run.glob(f"bench/*/{ADAPTIVE}*.jsonl"))
    if stage not in WITH_ATTACKERS and not adaptive:
        return []
    found = examine(run, (stage,))
    lines = _of_groups(found.groups)
    for attacker in found.attackers.values():
        name = _LABELS.get(attacker.role, attacker.role)
        for fault, count in attacker.faults.items():
            share = count / (attacker.asked + attacker.retried)
            if attacker.asked >= ENOUGH and share >= OFTEN:
                what = _JOBS.get(attacker.job, f"{attacker.job} scripts")
                lines.append(
                    f"{name}: {100 * share:.0f} % of its {what} were {_FAULTS.get(fault, fault)};"
                    f" another model for roles.{attacker.role} may do better"
                )
    if adaptive:  # the judge's scores are its result
        return lines
    seen = set()
    for judge in found.judges.values():
        if judge.asked < ENOUGH or judge.role in seen:
            continue
        seen.add(judge.role)
        share = judge.unscored.total() / judge.asked
        if share >= OFTEN:
            why = ", ".join(f"{count} {reason}" for reason, count in judge.unscored.most_common())
            lines.append(
                f"{judge.role}: {100 * share:.0f} % of its turns have no score ({why});"
                f" another model for roles.{judge.role} may judge better"
            )
        verdict, count = judge.verdicts.most_common(1)[0] if judge.verdicts else (0.0, 0)
        if count >= CONSTANT * judge.verdicts.total() >= CONSTANT * ENOUGH:
            lines.append(
                f"{judge.role}: {judge.score} was {verdict:g} in {count} of {judge.verdicts.total()} turns;"
                " read some of its reasons: it may not be judging"
            )
    return lines


def _of_groups(groups: Groups) -> list[str]:
    if not groups.equal_groups or (share := fmean(groups.equal_groups)) <= MOST:
        return []
    leaking = (
        f", and {100 * fmean(groups.leak_rate):.1f} % of the trajectories leaked" if groups.leak_rate else ""
    )
    return [
        f"{100 * share:.0f} % of the groups had equal returns, or nearly{leaking}: RL had nothing to learn"
        " from them; try a tutor that attacks harder or adapts (roles.tutor, rl.feedback_dynamics,"
        " rl.tutor_memory), a higher rl.temperature, another rl.benign_share, fewer bootstrap.sft.epochs, or"
        " rl.start_from: base"
    ]
