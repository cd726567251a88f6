"""The results of an experiment (`NAME.json` of `safer-steer experiment`) as tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from safer_steer.bench.rates import NONE
from safer_steer.metrics import LOST, median_in_words
from safer_steer.report.health import Table

Row = dict[str, Any]


@dataclass(frozen=True)
class ShownExperiment:
    """One experiment: its name, and its tables."""

    name: str
    tables: list[Table]


def experiment_tables(outcome: Row) -> ShownExperiment:
    """The rates by arm, the differences beside the paper's, hazards and log-rank tests."""
    from safer_steer.experiments.arms_table import beside, exploratory, shown  # loads slowly

    arms, survival = outcome["arms"], outcome.get("survival") or {}
    measures = list(dict.fromkeys(measure for rates in arms.values() for measure in rates))
    seeds = len(outcome["seeds"])
    tables = [
        Table(
            "The paper's claims",
            "The number is the difference here, in points, over all seeds. Cannot tell: an interval includes"
            " 0. No result: too many dialogues of an arm have no scores.",
            ["claim", "where", "measure", "number", "here"],
            [_claim(claim, seeds) for claim in outcome.get("claims") or ()],
            labels=3,
        ),
        Table(
            "Rates",
            f"%, over {seeds} training seed{'s' * (seeds != 1)} and all dialogues, with 95 % intervals;"
            " t is over the seeds' means.",
            ["arm", *measures],
            [
                [str(arm), *(shown(rates[measure]) if measure in rates else NONE for measure in measures)]
                for arm, rates in arms.items()
            ],
            labels=1,
        ),
        Table(
            "Differences",
            "Points, paired by seed and dialogue. The verdict tells a sign only if both intervals exclude 0."
            f" {(outcome.get('registration') or {}).get('said', '')}",
            ["difference", "measure", "here", "paper", "verdict"],
            [
                [
                    " − ".join(map(str, entry["pair"])),
                    str(entry["measure"]) + exploratory(entry),
                    shown(entry, sign=True),
                    *beside(entry, seeds, outcome.get("broken", ())),
                ]
                for entry in outcome["differences"]
            ],
        ),
        *_survival(survival.get("arms") or {}, survival.get("tests") or ()),
        *_audits(outcome),
        Table(
            "Runs",
            "Dialogues without a result are left out of the rates.",
            ["arm", "dialogues", *LOST],
            [
                [
                    str(arm),
                    *(_count(counts.get(key)) for key in ("dialogues", *LOST)),
                ]
                for arm, counts in (outcome.get("lost") or {}).items()
            ],
            labels=1,
        ),
    ]
    return ShownExperiment(
        str(outcome.get("name") or "Experiment"), [table for table in tables if table.rows]
    )


def _claim(claim: Row, seeds: int) -> list[str]:
    from safer_steer.experiments.arms_table import exploratory, shown, told

    number = shown(claim["found"], sign=True)
    measure = f"{claim['measure']}, {' − '.join(claim['pair'])}"
    return [
        claim["says"],
        claim["where"],
        measure,
        number,
        told(claim["verdict"], claim["found"], seeds) + exploratory(claim),
    ]


def _audits(outcome: Row) -> list[Table]:
    from safer_steer.experiments.audited import tables

    titles = ("Rewards by tutor and audit", "When the audit notices")
    return [
        Table(title, note, head, rows, labels=len(head) - len(rows[0]) + 2)
        for title, (note, head, rows) in zip(titles, tables(outcome.get("audit") or {}), strict=False)
    ]


def _survival(arms: Row, tests: Iterable[Row]) -> list[Table]:
    return [
        Table(
            "Hazard",
            "Of the dialogues still safe, the share that fails at each turn, %, all seeds together; and the"
            " median turn of failure.",
            *_hazards(arms),
            labels=1,
        ),
        Table(
            "Over-refusal by turn",
            "Of the safe requests, the share that is refused at each turn, %, all seeds together.",
            *_by_turn(arms, "refused"),
            labels=1,
        ),
        Table(
            "Log-rank tests",
            "Paired by script, one a training seed; z is positive if the first fails later.",
            ["pair", "z by seed", "largest p"],
            [
                [
                    " − ".join(map(str, entry["pair"])),
                    ", ".join(f"{z:+.1f}" for z in entry["z"]),
                    "< 0.001" if max(entry["p"]) < 0.001 else f"{max(entry['p']):.3f}",
                ]
                for entry in tests
            ],
            labels=1,
        ),
    ]


def _hazards(arms: Row) -> tuple[list[str], list[list[str]]]:
    """As `_by_turn`, with the median turn of failure in the last column."""
    head, rows = _by_turn(arms, "hazard")
    for row, entry in zip(rows, arms.values(), strict=False):
        last = len(entry.get("hazard") or ())
        row.append(median_in_words(entry.get("median"), last) if last else NONE)
    return [*head, "median"], rows


def _by_turn(arms: Row, name: str) -> tuple[list[str], list[list[str]]]:
    """The head of a table with a column a turn, and its rows."""
    longest = max((len(entry.get(name) or ()) for entry in arms.values()), default=0)
    rows = []
    for arm, entry in arms.items():
        shares = [*(entry.get(name) or ()), *[None] * longest][:longest]
        rows.append([str(arm), *map(_percent, shares)])
    return ["arm", *(f"turn {turn}" for turn in range(1, longest + 1))], rows if longest else []


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}"


def _count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"
