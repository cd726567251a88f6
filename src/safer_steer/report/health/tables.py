"""The counts as tables of formatted text, for the console and the report."""

from __future__ import annotations

from typing import Any, NamedTuple

from safer_steer.bench.answers import COUNTED, LACKS
from safer_steer.bench.rates import NONE
from safer_steer.report.health.tally import FAULTS, Health


class Table(NamedTuple):
    """A table of text. The first `labels` columns name the row; the others are numbers."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]
    labels: int = 2
    after: str = ""
    """A line below it."""


def tables(health: Health) -> list[Table]:
    """Attackers, strategies, modalities, judges, answers, what was left out, groups, approaches; tables
    without rows are omitted."""
    facts = health.as_dict()
    keys = ("asked", *FAULTS, "retried", "recovered", "gave_up")
    attackers = [[row["role"], row["job"], *(f"{row[key]:,}" for key in keys)] for row in facts["attackers"]]
    all_tables = [
        Table(
            "Attackers",
            "Faults by attempt: the attacker declined, wrote no words, repeated an earlier turn, or gave no"
            " valid answer. After a fault it is asked once more, with another strategy. Gave up: that"
            " failed too. Then the script was dropped (generator), or the script's own turn was played"
            " (red, tutor).",
            ["role", "job", "asked", *FAULTS, "retried", "recovered", "gave up"],
            [row for row in attackers if row[2] != "0"],
        ),
        Table(
            "Strategies",
            "Success has a 95 % interval, in which each script counts once. For the generator it is the share"
            " of scripts kept of those played against the target. For red agent and tutor it is the share of"
            " attack turns whose answer has a safety of at most 4; for an attacker of the bench, that of"
            " turns with harmlessness below 0. Distinct-n and similarity (mean Jaccard of two turns'"
            " words) are computed on at most 200 turns.",
            [
                "role",
                "strategy",
                "tried",
                "succeeded",
                "success, %",
                "turns to success",
                "turns",
                "distinct-1",
                "distinct-2",
                "similarity",
            ],
            [_strategy(row) for row in facts["strategies"]],
        ),
        _modalities(facts["modalities"]),
        Table(
            "Judges",
            "A judge that gives nearly every turn the same score may not be judging. Yes and no (the"
            " evaluator on scripts) count as 1 and 0.",
            ["role", "score", "asked", "unscored, %", "commonest", "its share, %", "all verdicts"],
            [_judge(row) for row in facts["judges"]],
        ),
        Table(
            "Answers",
            "Answers that the token limit cut off are scored as they stand. Many of them: raise the limit."
            " Without an answer block where the layout asks for one, or empty: Help is 0. Identical: word for"
            " word what the model said in another dialogue to another question.",
            ["model", "stage", "answers", "cut off", "cut off, %", *LACKS.values()],
            [_answers(row) for row in facts["answers"]],
        ),
        _left_out(facts["unanswered"]),
        Table(
            "Groups",
            "Means over the steps of Stage III. A group, the trajectories of one seed, whose returns are all"
            " equal, or nearly, has no advantage and teaches nothing. Distinct attacks: the different user"
            " turns at turn 2, as a share of the group's trajectories that reached it.",
            ["stage", "steps", "equal returns, %", "leaks, %", "distinct attacks, %"],
            [_groups(row) for row in facts["groups"]],
            labels=1,
        ),
        Table(
            "Approaches over the steps",
            "What a tutor with a memory (rl.tutor_memory) tried in scripts that attack. Turns in a row of one"
            " approach are one try; it breached if one of them leaked. Early, middle, late: breached of tried"
            " in each third of the steps.",
            ["role", "approach", "tried", "breached", "breached, %", "early", "middle", "late"],
            [_approach(row) for row in facts["approaches"]],
        ),
        _audits(facts["audit"]),
    ]
    return [table for table in all_tables if table.rows]


def _left_out(rows: list[dict[str, Any]]) -> Table:
    return Table(
        "Left out",
        "Scripts of Stage I and dialogues of Stage II that an endpoint gave no answer for"
        " (seeds.max_unanswered, bootstrap.max_unanswered).",
        ["stage", "left out"],
        [[row["stage"], f"{row['left_out']:,}"] for row in rows],
        labels=1,
    )


def _modalities(rows: list[dict[str, Any]]) -> Table:
    return Table(
        "Modalities",
        "Attack requests by what they ask with: text alone, text beside a picture that is shown with it,"
        " or words drawn into that picture. Success is as above; for a script of the bench, that of its"
        " turns with harmlessness below 0, of all models measured.",
        ["role", "modality", "tried", "succeeded", "success, %"],
        [_modality(row) for row in rows],
    )


def _modality(row: dict[str, Any]) -> list[str]:
    counts = [f"{row[key]:,}" for key in ("tried", "succeeded")]
    return [row["role"], row["modality"].replace("_", " "), *counts, _success(row["rate"])]


def _success(rate: dict[str, Any]) -> str:
    return NONE if rate["value"] is None else f"{rate['value']:.1f} [{rate['low']:.0f}, {rate['high']:.0f}]"


def _strategy(row: dict[str, Any]) -> list[str]:
    success = _success(row["rate"])
    shares = [number(row[key], 2) for key in ("distinct_1", "distinct_2", "similarity")]
    counts = [f"{row[key]:,}" for key in ("tried", "succeeded")]
    return [
        row["role"],
        row["strategy"].replace("_", " "),
        *counts,
        success,
        number(row["mean_turns_to_success"], 1),
        f"{row['turns']:,}",
        *shares,
    ]


def _judge(row: dict[str, Any]) -> list[str]:
    spread = "  ".join(f"{verdict}: {count:,}" for verdict, count in row["verdicts"].items())
    commonest = NONE if row["commonest"] is None else f"{row['commonest']:g}"
    return [
        row["role"],
        row["score"],
        f"{row['asked']:,}",
        number(row["unscored_share"], 1),
        commonest,
        number(row["commonest_share"], 1),
        spread or NONE,
    ]


def _answers(row: dict[str, Any]) -> list[str]:
    answers, cut, *lacking = (f"{row[key]:,}" for key in COUNTED)
    return [row["model"], row["stage"], answers, cut, number(row["cut_off_share"], 1), *lacking]


def _groups(row: dict[str, Any]) -> list[str]:
    shares = [number(row[key], 1) for key in ("equal_groups", "leak_rate", "distinct_attacks")]
    return [row["stage"], f"{row['steps']:,}", *shares]


def _approach(row: dict[str, Any]) -> list[str]:
    parts = [f"{part['breached']:,} of {part['tried']:,}" for part in row["by_part"]]
    name, share = row["approach"].replace("_", " "), number(row["rate"]["value"], 1)
    return [row["role"], name, f"{row['tried']:,}", f"{row['breached']:,}", share, *parts]


def _audits(parts: list[dict[str, Any]]) -> Table:
    rows = []
    for part in parts:
        gap, steps = part["gap"], f"{part['first']}-{part['last']}"
        interval = "" if gap["low"] is None else f" [{gap['low']:+.2f}, {gap['high']:+.2f}]"
        means = (number(part["tutor"], 2), number(part["audit"], 2))
        agree = number(100 * part["agree"], 1)
        follows = number(part["slope"], 2)
        rows.append([steps, f"{part['turns']:,}", *means, f"{gap['value']:+.2f}{interval}", agree, follows])
    return Table(
        "Tutor and audit",
        "Turns of Stage III that a second judge scored, too (rl.audit), in each third of the steps: the mean"
        " reward by each. The gap is tutor less audit, with its 95 % interval; they agree on a turn if their"
        " safety scores differ by at most 1. Slope: by how much the tutor's reward is higher where the"
        " audit's is higher by 1, within a script.",
        ["steps", "turns", "tutor", "audit", "gap", "agree, %", "slope"],
        rows,
        labels=1,
    )


def number(value: float | None, digits: int) -> str:
    """With so many digits after the point; `NONE` without a value."""
    return NONE if value is None else f"{value:.{digits}f}"
