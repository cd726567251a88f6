"""What an experiment found (`NAME.json`) as tables of text: of NAME.md, docs/results and the page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safer_steer.bench.rates import NONE, Rate
from safer_steer.experiments.audited import audit_tables
from safer_steer.experiments.results import CANNOT_TELL, Finding, verdict
from safer_steer.experiments.spec import Experiment
from safer_steer.files.manifest import Manifest
from safer_steer.intervals import detectable
from safer_steer.metrics import LOST, median_in_words
from safer_steer.report.health import Table

COUNTED = ("dialogues", *LOST, "unanswered")
"""Dialogues of an arm, those without a result by state, and questions without an answer."""


def tables(outcome: Finding, planned: int | None = None) -> list[Table]:
    """Those that have rows.

    Args:
        outcome: of `results.results`; one without survival, audit, claims or registration will do.
        planned: training seeds of the file, where fewer may be done.
    """
    arms, seeds = outcome["arms"], len(outcome["seeds"])
    measures = list(dict.fromkeys(measure for rates in arms.values() for measure in rates))
    of = f" of {planned}" if planned and planned > seeds else ""
    all_tables = [
        Table(
            "Rates",
            f"%, over {seeds}{of} training seed{'s' * ((planned or seeds) > 1)} and all dialogues, with 95 %"
            " intervals; t is over the seeds' means.",
            ["arm", *measures],
            [
                [arm, *(_cell(rates[measure]) if measure in rates else NONE for measure in measures)]
                for arm, rates in arms.items()
            ],
            labels=1,
        ),
        Table(
            "Differences",
            "Points, paired by seed and dialogue. The verdict tells a sign only if both intervals exclude 0.",
            ["difference", "measure", "here", "paper", "verdict"],
            [
                [
                    _minus(entry),
                    entry["measure"] + _exploratory(entry),
                    _cell(entry, sign=True),
                    *_beside(entry, outcome.get("broken", ())),
                ]
                for entry in outcome["differences"]
            ],
            after=(outcome.get("registration") or {}).get("said", ""),
        ),
        claims_table((None, claim) for claim in outcome.get("claims") or ()),
        *_survival(outcome.get("survival") or {"arms": {}, "tests": []}),
        *audit_tables(outcome.get("audit") or {}),
        Table(
            "Without a result",
            "Left out of the rates: dialogues by what became of them, and questions without an answer.",
            ["arm", *COUNTED],
            [
                [arm, *(f"{counts.get(name, 0):,}" for name in COUNTED)]
                for arm, counts in (outcome.get("lost") or {}).items()
                if any(counts.get(name) for name in COUNTED[1:])
            ],
            labels=1,
        ),
    ]
    return [table for table in all_tables if table.rows]


def claims_table(claims: Iterable[tuple[str | None, Finding]]) -> Table:
    """Claims with what was found.

    Args:
        claims: each with the name of its experiment's file, or None to leave that column out.
    """
    rows, named = [], False
    for file, claim in claims:
        tested_in, named = ([f"`{file}`"], True) if file else ([], named)
        verdict = _with_power(claim["verdict"], claim["found"]) + _exploratory(claim)
        number, here = f"{claim['measure']}, {_minus(claim)}", _cell(claim["found"], sign=True)
        rows.append([claim["says"], claim["where"], *tested_in, number, here, verdict])
    head = ["claim", "where", *(["experiment"] if named else []), "number", "here", "verdict"]
    note = "The paper's claims. The number decides: a difference in points, over all seeds."
    return Table("Claims", note, head, rows, labels=3)


def wall_times(runs: Mapping[str, Mapping[int, Path]]) -> Table:
    """What the stages took that lead to an arm's model and measure it. It stands apart from the results,
    which are the same on every machine.

    Args:
        runs: each arm's run folder by seed.
    """
    rows = []
    for arm, by_seed in runs.items():
        stages = [list(Manifest(folder).stages.values()) for folder in by_seed.values()]
        seconds = [sum(stage.get("seconds", 0) for stage in of_run) for of_run in stages]
        rows.append([arm, f"{sum(seconds) / len(seconds):.0f}"])
    head = ["arm", "seconds of a run, with the stages it shares"]
    return Table("Wall times", "Means over the seeds.", head, rows, labels=1)


def markdown(outcome: Finding, experiment: Experiment) -> str:
    """The results as Markdown."""
    all_tables = tables(outcome, len(experiment.seeds))
    parts = [f"## {experiment.name}", experiment.question]
    for table in all_tables:
        parts += [table.note, in_markdown(table), table.after]
    if all_tables[-1].title != "Without a result":
        parts.append("Every dialogue has a result.")
    if experiment.paper:
        parts.append(f"Paper: {experiment.paper.source}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def in_markdown(table: Table) -> str:
    """Head and rows as a Markdown table."""
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(rate: Mapping[str, Any], sign: bool = False) -> str:
    """Value and interval, then the t interval over the seeds if there is one; a dash if nothing was
    scored."""
    form = "+.1f" if sign else ".1f"
    text, t = Rate.model_validate(rate).printed(form, form), rate.get("t")
    return text + (f", t [{t['low']:{form}}, {t['high']:{form}}]" if t else "")


def _minus(entry: Finding) -> str:
    return " - ".join(entry["pair"])


def _exploratory(entry: Finding) -> str:
    """What stands behind a difference or claim that was not registered before the runs."""
    return " (exploratory)" if entry.get("exploratory") else ""


def _beside(entry: Finding, broken: Collection[str]) -> list[str]:
    """The paper's difference, and the verdict. That is whether ours has the paper's sign; without one,
    whether the first arm has more or less.

    Args:
        broken: arms without a result.
    """
    if paper := entry.get("paper"):
        return [f"{paper['value']:+.1f}", _with_power(paper["verdict"], entry)]
    own = verdict(entry, 1, broken)
    return [NONE, _with_power({"agrees": "more", "disagrees": "less"}.get(own, own), entry)]


def _with_power(verdict: str, difference: Finding) -> str:
    """The verdict; where it cannot tell, with the difference that the experiment could have told."""
    least = detectable(difference) if verdict == CANNOT_TELL else None
    return verdict if least is None else f"{verdict} (80 % power: {least:.1f} points)"


def _survival(survival: Finding) -> Iterator[Table]:
    arms = survival["arms"]
    head, rows = _by_turn(arms, "hazard")
    for row, entry in zip(rows, arms.values(), strict=False):
        last = len(entry.get("hazard") or ())
        row.append(median_in_words(entry.get("median"), last) if last else NONE)
    note = (
        "Of the dialogues still safe, the share that fails at each turn, %, all seeds together; and the"
        " median turn of failure."
    )
    yield Table("Hazard", note, [*head, "median"], rows, labels=1)
    note = "Of the safe requests, the share that is refused at each turn, %, all seeds together."
    yield Table("Over-refusal by turn", note, *_by_turn(arms, "refused"), labels=1)
    tests = []
    for entry in survival["tests"]:
        cells = (", ".join(f"{z:+.1f}" for z in entry["z"]), ", ".join(map(_p, entry["p"])))
        tests.append([_minus(entry) + _exploratory(entry), *cells])
    note = "Paired by script, one a training seed; z is positive if the first fails later."
    yield Table("Log-rank tests", note, ["difference", "z by seed", "p by seed"], tests, labels=1)


def _by_turn(arms: Mapping[str, Finding], name: str) -> tuple[list[str], list[list[str]]]:
    """The head of a table with a column a turn, and its rows."""
    longest = max((len(entry.get(name) or ()) for entry in arms.values()), default=0)
    rows = []
    for arm, entry in arms.items():
        shares = [*(entry.get(name) or ()), *[None] * longest][:longest]
        rows.append([arm, *(NONE if share is None else f"{100 * share:.1f}" for share in shares)])
    return ["arm", *(f"turn {turn}" for turn in range(1, longest + 1))], rows if longest else []


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
