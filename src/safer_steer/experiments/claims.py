"""What an experiment's numbers say of the paper's claims: agrees, disagrees, or cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safer_steer.experiments.spec import LATER, Experiment

SIGNIFICANT = 1.96
"""|z| from which two-sided p is below 0.05."""
Finding = dict[str, Any]


def tested(
    experiment: Experiment, differences: list[Finding], survival: Mapping[str, Any] | None
) -> list[Finding]:
    """Each claim of an experiment with what was found.

    Args:
        differences: those of `table.results`.
        survival: its tests; needed for claims on `LATER`.

    Returns:
        `{"says", "where", "pair", "measure", "more", "found", "verdict"}`. `found` is the difference, for
        `LATER` `{"z": the seeds' log-rank z, added and divided by the root of their number}` (Stouffer).
    """
    by_pair = {(*entry["pair"], entry["measure"]): entry for entry in differences}
    found = []
    for claim in experiment.claims:
        facts = claim.model_dump(mode="json")
        if claim.measure == LATER:
            assert survival is not None, "the file's check asks for it"
            [test] = [one for one in survival["tests"] if one["pair"] == list(claim.pair)]
            z = sum(test["z"]) / len(test["z"]) ** 0.5
            found.append(facts | {"found": {"z": round(z, 2)}, "verdict": _of_z(z, claim.more)})
        else:
            entry = by_pair[*claim.pair, claim.measure]
            numbers = {key: entry[key] for key in ("value", "low", "high", "t")}
            found.append(facts | {"found": numbers, "verdict": verdict(entry, 1 if claim.more else -1)})
    return found


def verdict(found: Mapping[str, Any], theirs: float) -> str:
    """Whether a difference agrees with another's sign. Both of its intervals must exclude 0 to tell."""
    if found["value"] is None:
        return "cannot tell"
    intervals = [(found["low"], found["high"])]
    if found["t"]:
        intervals.append((found["t"]["low"], found["t"]["high"]))
    if all(low > 0 for low, _ in intervals):
        ours = 1
    elif all(high < 0 for _, high in intervals):
        ours = -1
    else:
        return "cannot tell"
    return "agrees" if ours * theirs > 0 else "disagrees"


def _of_z(z: float, more: bool) -> str:
    if abs(z) < SIGNIFICANT:
        return "cannot tell"
    return "agrees" if (z > 0) is more else "disagrees"
