"""An experiment's results: rates with intervals, differences paired by seed and dialogue, and the paper's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safer_steer.bench.rates import Rate
from safer_steer.experiments.audited import audited
from safer_steer.experiments.audited import tables as audit_tables
from safer_steer.experiments.measures import (
    MEASURES,
    answers_in,
    over_seeds,
    states_in,
    suites_in,
)
from safer_steer.experiments.spec import Experiment
from safer_steer.experiments.survival import compared
from safer_steer.files.manifest import Manifest
from safer_steer.intervals import detectable, difference_over_seeds
from safer_steer.metrics import LOST, median_in_words

Finding = dict[str, Any]


CANNOT_TELL = "cannot tell"


def tested(experiment: Experiment, differences: list[Finding], broken: Collection[str]) -> list[Finding]:
    """Each claim of an experiment with what was found.

    Args:
        differences: those of `table.results`.
        broken: arms without a result. What is said of them is `no result`.

    Returns:
        `{"says", "where", "pair", "measure", "more", "found", "verdict"}`. `found` is the difference.
    """
    by_pair = {(*entry["pair"], entry["measure"]): entry for entry in differences}
    decided = []
    for claim in experiment.claims:
        entry = by_pair[*claim.pair, claim.measure]
        numbers = {key: entry[key] for key in ("value", "low", "high", "t")}
        said = verdict(entry, 1 if claim.more else -1, broken)
        decided.append(claim.model_dump(mode="json") | {"found": numbers, "verdict": said})
    return decided


def verdict(difference: Mapping[str, Any], theirs: float, broken: Collection[str] = ()) -> str:
    """Whether a difference agrees with another's sign. Both of its intervals must be there and exclude 0 to
    tell: without t, with one seed or equal means, nothing is known of how much seeds differ.

    Args:
        difference: one of `table.results`' differences.
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


LOG_RANK = "Log-rank tests paired by script, one a training seed; z is positive if the first fails later:"


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
    lost = {arm: _lost(list(by_seed.values())) for arm, by_seed in folders.items()}
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
                {f"{suite} {row.id}": row for suite, rows in suites_in(folder, "multi_turn") for row in rows}
                for folder in by_seed.values()
            ]
            for arm, by_seed in folders.items()
        }
        survival = compared(rows, experiment.compare)
    return {
        "name": experiment.name,
        "seeds": list(next(iter(runs.values()))),
        "arms": arms,
        "differences": differences,
        "lost": lost,
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


def _lost(folders: list[Path]) -> dict[str, int]:
    """How many dialogues of an arm have no result, by state, and of how many; and how many questions have no
    answer, if there are such."""
    states = [known for folder in folders for part in states_in(folder).values() for known in part]
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


def wall_times(runs: Mapping[str, Mapping[int, Path]]) -> str:
    """What the stages took that lead to an arm's model and measure it, as a Markdown table: seconds of a run,
    the mean over seeds. It stands apart from the results, which are the same on every machine."""
    rows = []
    for arm, by_seed in runs.items():
        stages = [list(Manifest(folder).stages.values()) for folder in by_seed.values()]
        spent = [sum(stage.get("seconds", 0) for stage in of_run) for of_run in stages]
        rows.append([arm, f"{sum(spent) / len(spent):.0f}"])
    return table(["arm", "seconds of a run, with the stages it shares"], rows) + "\n"


def markdown(outcome: dict[str, Any], experiment: Experiment) -> str:
    """The results as Markdown tables."""
    arms, measures = outcome["arms"], list(next(iter(outcome["arms"].values())))
    done, planned = len(outcome["seeds"]), len(experiment.seeds)
    seeds = f"{done}{f' of {planned}' * (done < planned)} training seed{'s' * (planned > 1)}"
    parts = [f"## {experiment.name}", experiment.question]
    rows = [[arm, *(shown(arms[arm][measure]) for measure in measures)] for arm in arms]
    parts.append(table([seeds, *measures], rows))
    if outcome["differences"]:
        rows = []
        for entry in outcome["differences"]:
            measure = entry["measure"] + exploratory(entry)
            pair, cells = " - ".join(entry["pair"]), beside(entry, done, outcome.get("broken", ()))
            rows.append([pair, measure, shown(entry, sign=True), *cells])
        parts.append(table(["difference, points", "measure", "here", "paper", "verdict"], rows))
    if registration := outcome.get("registration"):
        parts.append(registration["said"])
    if outcome["survival"]:
        parts += _survival(outcome["survival"])
    for before, head, rows in audit_tables(outcome.get("audit") or {}):
        parts += [before, table(head, rows)]
    if outcome["claims"]:
        parts.append(claims_table([(None, claim, done) for claim in outcome["claims"]]))
    lost = []
    for arm, counts in outcome["lost"].items():
        gone = ", ".join(f"{counts[name]} {name}" for name in LOST if counts[name])
        if gone:
            lost.append(f"{arm}: {gone} of {counts['dialogues']} dialogues.")
        if count := counts.get("unanswered"):
            lost.append(f"{arm}: {count} question{'s' * (count > 1)} without an answer.")
    parts.append("\n".join(lost) or "Every dialogue has a result.")
    if experiment.paper:
        parts.append(f"Paper: {experiment.paper.source}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def claims_table(claims: Iterable[tuple[str | None, dict[str, Any], int]]) -> str:
    """The claims with what was found, as a Markdown table.

    Args:
        claims: each with the name of its experiment's file, or None to leave that column out, and the number
            of training seeds.
    """
    rows, named = [], False
    for file, claim, seeds in claims:
        number = shown(claim["found"], sign=True)
        what = f"{claim['measure']}, {' - '.join(claim['pair'])}"
        tested_in, named = ([f"`{file}`"], True) if file else ([], named)
        said = told(claim["verdict"], claim["found"], seeds) + exploratory(claim)
        rows.append([claim["says"], claim["where"], *tested_in, what, number, f"**{said}**"])
    head = ["the paper's claim", "where", *(["experiment"] if named else []), "number", "here", ""]
    return table(head, rows)


def exploratory(entry: Mapping[str, Any]) -> str:
    """What stands behind a difference or claim that was not registered before the runs."""
    return " (exploratory)" if entry.get("exploratory") else ""


def beside(entry: Mapping[str, Any], seeds: int, broken: Collection[str] = ()) -> list[str]:
    """What stands beside a difference: the paper's, and the verdict. That is whether ours has the paper's
    sign; without one, whether the first arm has more or less.

    Args:
        broken: arms without a result.
    """
    if paper := entry.get("paper"):
        return [f"{paper['value']:+.1f}", told(paper["verdict"], entry, seeds)]
    own = verdict(entry, 1, broken)
    return ["–", told({"agrees": "more", "disagrees": "less"}.get(own, own), entry, seeds)]


def told(verdict: str, difference: Mapping[str, Any], seeds: int) -> str:
    """The verdict; where it cannot tell, with the difference that the experiment could have told."""
    least = detectable(difference, seeds) if verdict == CANNOT_TELL else None
    return verdict if least is None else f"{verdict} (80 % power: {least:.1f} points)"


def _survival(survival: dict[str, Any]) -> list[str]:
    medians = [
        [arm, median_in_words(entry["median"], len(entry["hazard"]))]
        for arm, entry in survival["arms"].items()
    ]
    tests = [
        [" - ".join(entry["pair"]), ", ".join(f"{z:+.1f}" for z in entry["z"]), _p(max(entry["p"]))]
        for entry in survival["tests"]
    ]
    return [
        "Of the dialogues still safe, the share that fails at each turn, %, all seeds together:",
        _by_turn(survival["arms"], "hazard"),
        "Of the safe requests, the share that is refused at each turn, %:",
        _by_turn(survival["arms"], "refused"),
        table(["model", "median turn of failure"], medians),
        *([LOG_RANK, table(["pair", "z by seed", "largest p"], tests)] if tests else []),
    ]


def _by_turn(arms: dict[str, Any], name: str) -> str:
    """A row an arm, a column a turn."""
    longest = max(len(entry[name]) for entry in arms.values())
    rows = []
    for arm, entry in arms.items():
        shares = [*entry[name], *[None] * (longest - len(entry[name]))]
        rows.append([arm, *map(_percent, shares)])
    return table(["model", *(f"turn {turn}" for turn in range(1, longest + 1))], rows)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(rate: dict[str, Any], sign: bool = False) -> str:
    """Value and interval, then the t interval over the seeds if there is one; a dash if nothing was
    scored."""
    form = "+.1f" if sign else ".1f"
    said = Rate.model_validate(rate).printed(form, form)
    return said + (f", t [{rate['t']['low']:{form}}, {rate['t']['high']:{form}}]" if rate["t"] else "")
