"""An experiment's results: rates with intervals, differences paired by seed and dialogue, and the paper's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safer_steer.experiments.audited import audited
from safer_steer.experiments.measures import MEASURES, answers_in, over_seeds, states_in, suites_in
from safer_steer.experiments.spec import Experiment
from safer_steer.experiments.survival import compared
from safer_steer.intervals import difference_over_seeds
from safer_steer.metrics import LOST, averaged

Finding = dict[str, Any]

CANNOT_TELL = "cannot tell"


def tested(experiment: Experiment, differences: list[Finding], broken: Collection[str]) -> list[Finding]:
    """Each claim of an experiment with what was found.

    Args:
        differences: those of `results`.
        broken: arms without a result. What is said of them is `no result`.

    Returns:
        `{"says", "where", "pair", "measure", "more", "found", "verdict"}`. `found` is the difference.
    """
    by_pair = {(*entry["pair"], entry["measure"]): entry for entry in differences}
    decided = []
    for claim in experiment.claims:
        entry = by_pair[*claim.pair, claim.measure]
        numbers = {key: entry[key] for key in ("value", "low", "high", "t", "n", "seeds")}
        outcome = verdict(entry, 1 if claim.more else -1, broken)
        decided.append(claim.model_dump(mode="json") | {"found": numbers, "verdict": outcome})
    return decided


def verdict(difference: Mapping[str, Any], theirs: float, broken: Collection[str] = ()) -> str:
    """Whether a difference agrees with another's sign. Both of its intervals must be there and exclude 0 to
    tell: without t, with one seed or equal means, nothing is known of how much seeds differ.

    Args:
        difference: one of `results`' differences.
        theirs: a number with the other's sign. With 0 there is no sign to agree with.
        broken: arms without a result.
    """
    if not set(difference["pair"]).isdisjoint(broken):
        return "no result"
    if difference["value"] is None or difference["t"] is None or not theirs:
        return CANNOT_TELL
    intervals = [(difference["low"], difference["high"]), (difference["t"]["low"], difference["t"]["high"])]
    if all(low > 0 for low, _ in intervals):
        ours = 1
    elif all(high < 0 for _, high in intervals):
        ours = -1
    else:
        return CANNOT_TELL
    return "agrees" if ours * theirs > 0 else "disagrees"


def results(
    experiment: Experiment, runs: dict[str, dict[int, Path]], max_unscored: float = 0.01
) -> dict[str, Any]:
    """All numbers of an experiment, from the dialogues on disk.

    Args:
        runs: each arm's run folder by seed; all arms have the same seeds, and their runs are done.
        max_unscored: an arm has no result if in one of its runs a larger share is unscored or failed, of a
            protocol's or an attacker's dialogues or of a set's questions, as in the bench itself. It decides
            on no claim and no sign then.

    Returns:
        `{"name", "seeds", "arms": {arm: {measure: rate}}, "differences": [{"pair", "measure", ...,
        "paper"}], "lost": {arm: {state: count}}, "broken": [arm], "survival", "audit",
        "claims"}`. A rate has the form of `intervals.rate_over_seeds`, a difference that of
        `intervals.difference_over_seeds`. Without `measures` in the file they are those that some arm has,
        and those of claims. `paper` is the paper's difference in points and whether its sign agrees, or None.
        `broken` are the arms without a result. `audit` is that of `audited.audited`. `claims` has the form of
        `tested`.
    """
    measures = experiment.measures or list(MEASURES)
    folders = {
        arm: {seed: folder / "bench" / experiment.arms[arm].model for seed, folder in by_seed_of.items()}
        for arm, by_seed_of in runs.items()
    }
    hits = {
        (arm, measure): {seed: MEASURES[measure].hits(folder) for seed, folder in by_seed.items()}
        for arm, by_seed in folders.items()
        for measure in measures
    }
    if not experiment.measures:  # what no arm's bench has, such as its attackers, is left out
        claimed = {claim.measure for claim in experiment.claims}
        measures = [
            name
            for name in measures
            if name in claimed or any(any(hits[arm, name].values()) for arm in folders)
        ]
    arms = {
        arm: {measure: over_seeds(measure, hits[arm, measure]) for measure in measures}
        for arm in experiment.arms
    }
    losses = {arm: _losses(list(by_seed.values())) for arm, by_seed in folders.items()}
    broken = [
        arm
        for arm, by_seed in folders.items()
        if any(share > max_unscored for folder in by_seed.values() for share in _lost_shares(folder))
    ]
    differences = []
    for pair in experiment.compare:
        for measure in measures:
            first, second = (hits[arm, measure] for arm in pair)
            entry = {"pair": list(pair), "measure": measure, **difference_over_seeds(first, second)}
            differences.append(entry | {"paper": _papers(experiment, entry, broken)})
    survival = None
    if experiment.survival:
        rows = {
            arm: [
                {f"{suite} {row.id}": row for suite, rows in averaged(suites).items() for row in rows}
                for suites in (dict(suites_in(folder, "multi_turn")) for folder in by_seed.values())
            ]
            for arm, by_seed in folders.items()
        }
        survival = compared(rows, experiment.compare)
    return {
        "name": experiment.name,
        "seeds": list(next(iter(runs.values()))),
        "arms": arms,
        "differences": differences,
        "lost": losses,
        "broken": broken,
        "survival": survival,
        "audit": audited(runs),
        "claims": tested(experiment, differences, broken),
    }


def _papers(experiment: Experiment, entry: dict[str, Any], broken: Collection[str]) -> dict[str, Any] | None:
    """The paper's difference, and whether ours has its sign: a verdict of `claims`."""
    values = experiment.paper.values.get(entry["measure"], {}) if experiment.paper else {}
    first, second = entry["pair"]
    if first not in values or second not in values:
        return None
    theirs = values[first] - values[second]
    return {"value": theirs, "verdict": verdict(entry, theirs, broken)}


def _losses(folders: list[Path]) -> dict[str, int]:
    """How many dialogues of an arm have no result, by state, and of how many; and how many questions have no
    answer, if there are such."""
    states = [state for folder in folders for part in states_in(folder).values() for state in part]
    marks = [mark for folder in folders for _, answers in answers_in(folder) for mark in answers.values()]
    unanswered = {"unanswered": marks.count(None)} if None in marks else {}
    return {"dialogues": len(states), **{name: states.count(name) for name in LOST}, **unanswered}


def _lost_shares(folder: Path) -> Iterator[float]:
    """The shares that a bench holds against `max_unscored`, for one model. Incomplete dialogues are in
    none: see `bench.summary.unscored_share`."""
    for states in states_in(folder).values():
        if states:
            yield (states.count("unscored") + states.count("failed")) / len(states)
    for _, marks in answers_in(folder):
        if marks:
            yield list(marks.values()).count(None) / len(marks)
