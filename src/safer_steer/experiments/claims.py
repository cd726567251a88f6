"""What an experiment's numbers say of the paper's claims: agrees, disagrees, cannot tell, or no result."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from safer_steer.experiments.spec import Experiment

Finding = dict[str, Any]


def tested(experiment: Experiment, differences: list[Finding], broken: Collection[str]) -> list[Finding]:
    """Each claim of an experiment with what was found.

    Args:
        differences: those of `table.results`.
        broken: arms without a result. What is said of them is `no result`.

    Returns:
        `{"says", "where", "pair", "measure", "more", "found", "verdict"}`. `found` is the difference.
    """
    by_pair = {(*entry["pair"], entry["measure"]): entry for entry in differences}
    found = []
    for claim in experiment.claims:
        entry = by_pair[*claim.pair, claim.measure]
        numbers = {key: entry[key] for key in ("value", "low", "high", "t")}
        said = verdict(entry, 1 if claim.more else -1, broken)
        found.append(claim.model_dump(mode="json") | {"found": numbers, "verdict": said})
    return found


def verdict(found: Mapping[str, Any], theirs: float, broken: Collection[str] = ()) -> str:
    """Whether a difference agrees with another's sign. Both of its intervals must be there and exclude 0 to
    tell: without t, with one seed or equal means, nothing is known of how much seeds differ.

    Args:
        found: one of `table.results`' differences.
        theirs: a number with the other's sign. With 0 there is no sign to agree with.
        broken: arms without a result.
    """
    if not set(found["pair"]).isdisjoint(broken):
        return "no result"
    if found["value"] is None or found["t"] is None or not theirs:
        return "cannot tell"
    intervals = [(found["low"], found["high"]), (found["t"]["low"], found["t"]["high"])]
    if all(low > 0 for low, _ in intervals):
        ours = 1
    elif all(high < 0 for _, high in intervals):
        ours = -1
    else:
        return "cannot tell"
    return "agrees" if ours * theirs > 0 else "disagrees"
