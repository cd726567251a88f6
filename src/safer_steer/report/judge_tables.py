"""What `judge-check` found, and several judges of a bench, as tables of text for console and report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safer_steer.bench.agreement import ENOUGH, SCORES
from safer_steer.bench.rates import NONE, Rate
from safer_steer.bench.results import ON_ATTACKS, ON_TWINS, Agreement, Judges, Summary, model_label
from safer_steer.report.health.tables import Table, number

Found = Mapping[str, Any]
"""`judge_check.json`, or a part of it."""
OTHERS = {"people": "people", "second": "the second judge"}
"""Who the judge is compared with, by key of `judge_check.json`."""
CRITERIA = {"safe": "Safe", "help": "Help", "joint": "joint", "twin_help": "Twin Help"}


def judge_tables(check: Found) -> list[Table]:
    """All tables; those without rows are left out."""
    all_tables = []
    for key, other in OTHERS.items():
        if part := check.get(key):
            all_tables += [_agreement(part, other), _failures(part, other), _bias(part, other)]
            all_tables += [_confusion(part, other, score) for score in SCORES]
    if again := check.get("repeats"):
        all_tables.append(_repeats(again))
    if pressed := check.get("probes"):
        all_tables.append(_probes(pressed))
    if people := check.get("people"):
        all_tables += [_errors(people), _corrected(people)]
    return [table for table in all_tables if table.rows]


def several_judges(summary: Summary) -> list[Table]:
    """Of a bench with several judges: each one's rates beside the joined ones, and how far they agree."""
    if summary.judges is None:
        return []
    tables = [_rates_by_judge(summary, summary.judges), _between_judges(summary.judges)]
    return [table for table in tables if table.rows]


def _rates_by_judge(summary: Summary, judges: Judges) -> Table:
    rows = []
    for model in summary.names:
        for measure in (*ON_ATTACKS, *ON_TWINS):
            rates = [measure.of(summary.average(model, measure.protocol))]
            for one in judges.each.values():
                rates.append(one.rates.get(model, {}).get(measure.protocol, {}).get(measure.name))
            if any(rates[1:]):
                cells = [str(rate) if rate else NONE for rate in rates]
                rows.append([model_label(model), measure.label, *cells])
    missing = ", ".join(f"{name} {one.unscored} of {one.turns}" for name, one in judges.each.items())
    return Table(
        "Rates by judge",
        f"In %, with 95 % intervals. Joined: by the {judges.joined_by} of the judges' scores of each turn"
        " (bench.verdict). A judge's own rates leave out dialogues in which it scored not every turn. Turns"
        f" that it gave no scores: {missing}.",
        ["model", "rate", "joined", *judges.each],
        rows,
        labels=2,
    )


def _between_judges(judges: Judges) -> Table:
    rows = []
    for two in judges.pairs:
        for score in SCORES:
            agreement: Agreement = getattr(two, score)
            shares = (number(agreement.exact, 1), number(agreement.within_one, 1))
            row = [two.first, two.second, score, str(two.turns), *shares]
            rows.append([*row, agreement.kappa.printed(".2f", ".2f")])
    return Table(
        "Agreement between the judges",
        "On the turns that both scored. Kappa has quadratic weights; none where both gave one and the same"
        f" score throughout. Its interval resamples dialogues, if there are {ENOUGH}.",
        ["judge", "and", "score", "turns", "same, %", "within 1, %", "kappa"],
        rows,
        labels=3,
    )


def warning(check: Found) -> str:
    """One line where the judge is the training tutor, else ""."""
    judge = check.get("judge") or {}
    return tutor_is_judge(judge.get("tutor", judge["model"])) if judge.get("is_tutor") else ""


def tutor_is_judge(model: str) -> str:
    """The warning's words."""
    return (
        f"the judge, {model}, is the tutor that trained the student: its rates favour what it has taught;"
        " name another model as roles.judge"
    )


def _agreement(part: Found, other: str) -> Table:
    alone = part.get("alpha_people") or {}
    rows = [
        [
            score,
            str(part["turns"]),
            number(part[score]["exact"], 1),
            number(part[score]["within_one"], 1),
            _with_interval(part[score]["kappa"], 2),
            number(part["alpha"][score], 2),
            number(alone.get(score), 2),
            _with_interval(part[score]["bias"], 2),
        ]
        for score in SCORES
    ]
    several = part.get("annotators", 1) > 1
    people = f" {part['annotators']} people gave labels; a turn counts for each of them." if several else ""
    return Table(
        f"The judge and {other}",
        f"Turns of {part['dialogues']} dialogues.{people} Kappa has quadratic weights, alpha is"
        " Krippendorff's (ordinal; of people alone beside it). Bias is the judge's score minus the other's."
        f" Kappa's interval resamples dialogues, if there are {ENOUGH}; bias has Student's over dialogues.",
        ["score", "turns", "same, %", "within 1, %", "kappa", "alpha", "people's alpha", "bias"],
        rows,
        labels=1,
    )


def _failures(part: Found, other: str) -> Table:
    return Table(
        f"Failures by turn: the judge and {other}",
        "Turns in which harmlessness is below 2, by who says so.",
        ["turn", "both", "judge alone", "other alone", "neither"],
        [
            [str(row[name]) for name in ("turn", "both", "first_only", "second_only", "neither")]
            for row in part["failures_by_turn"]
        ],
        labels=1,
    )


def _bias(part: Found, other: str) -> Table:
    both = zip(*(part[score]["bias_by"] for score in SCORES), strict=True)
    return Table(
        f"Bias by length and position: the judge and {other}",
        "The judge's score minus the other's: by the length of the answer, in thirds, and by turn.",
        ["answers", "turns", *SCORES],
        [[one[0]["group"], str(one[0]["n"]), *(_with_interval(cell, 2) for cell in one)] for one in both],
        labels=1,
    )


def _confusion(part: Found, other: str, score: str) -> Table:
    low, high = SCORES[score]
    counts = part[score]["confusion"]
    steps = list(map(str, range(low, high + 1)))
    return Table(
        f"Confusion, {score}: the judge and {other}",
        f"Turns by the judge's score (columns) and the score of {other} (rows).",
        [other, *steps],
        [
            [theirs, *(str(counts.get(theirs, {}).get(ours, 0)) for ours in steps)]
            for theirs in reversed(steps)
        ],
        labels=1,
    )


def _repeats(again: Found) -> Table:
    return Table(
        "The judge and itself",
        f"{again['turns']} turns, asked {again['repeats']} more times; {again['missing']} scores are missing."
        " Same: one score every time. Flips: dialogues whose outcome is not the same every time.",
        ["score", "same, %", "alpha", "flips, %"],
        [
            [score, number(again["exact"][score], 1), number(again["alpha"][score], 2), number(flips, 1)]
            for score, flips in zip(SCORES, again["flips"].values(), strict=True)
        ],
        labels=1,
    )


def _probes(pressed: Found) -> Table:
    return Table(
        "The judge under pressure",
        f"{pressed['turns']} turns of {pressed['dialogues']} dialogues, each judged again with an addition"
        " that must not change a verdict (docs/how-to/judge.md). Moved and shift: turns whose score changed,"
        " and the mean change. Unsafe to safe: of turns that failed (harmlessness below 2), those that pass"
        " now. Safe and Help: how far the rates over these dialogues would be off, in points, if every answer"
        " had it. Unchanged: the same answer once more, which is the judge's noise; the other rows count by"
        " how far they exceed it. An empty answer does neither harm nor good: there, failures should pass and"
        " Help fall.",
        [
            *("addition", "missing", "harmlessness moved, %", "shift", "helpfulness moved, %", "shift"),
            *("unsafe to safe, %", "of", "safe to unsafe, %", "of", "Safe", "Help"),
        ],
        [
            [
                row["probe"],
                str(row["missing"]),
                *(
                    number(row[score][name], places)
                    for score in SCORES
                    for name, places in (("moved", 1), ("shift", 2))
                ),
                *(
                    cell
                    for flips in (row["to_safe"], row["to_unsafe"])
                    for cell in (number(flips["value"], 1), str(flips["n"]))
                ),
                *(_with_interval(row["rates"][criterion], 1) for criterion in ("safe", "help")),
            ]
            for row in pressed["probes"]
        ],
        labels=1,
    )


def _errors(people: Found) -> Table:
    rows = []
    for row in people["errors"]:
        shares = [number(share and 100 * share, 1) for share in (row["sensitivity"], row["specificity"])]
        counts = [str(row[name]) for name in ("labels", "both", "people_only", "judge_only", "neither")]
        differ = [number((row.get("differ") or {}).get(name), 3) for name in ("sensitivity", "specificity")]
        rows.append([row["group"], row["model"], CRITERIA[row["criterion"]], *counts, *shares, *differ])
    return Table(
        "The judge's errors on dialogues",
        "Dialogues of which every turn has a label, by who passes them. Sensitivity: of those that people"
        " pass, the share that the judge passes. Specificity: of those that people fail, the share that it"
        " fails. p: Fisher's exact test that it errs alike on all models' dialogues; where it is small, the"
        " rates as judged exaggerate or hide differences between models. With few labels, a large p says"
        " little.",
        [
            *("suites", "model", "rate", "labels", "both", "people alone", "judge alone", "neither"),
            *("sensitivity, %", "specificity, %", "p, sensitivity", "p, specificity"),
        ],
        rows,
        labels=3,
    )


def _corrected(people: Found) -> Table:
    rows = [
        [
            model,
            protocol.replace("_", "-"),
            suite,
            CRITERIA[criterion],
            number(rate["judged"], 1),
            _with_interval(rate, 1),
            str(rate["labels"]),
            _enough(rate),
        ]
        for model, protocols in people["corrected"].items()
        for protocol, suites in protocols.items()
        for suite, rates in suites.items()
        for criterion, rate in rates.items()
    ]
    return Table(
        "Rates corrected for the judge's errors",
        "In %, with 95 % intervals that hold both uncertainties: which dialogues were measured, and which"
        " were labelled. Each by the labels of its own dialogues; a rate with too few in one of its suites is"
        " not corrected (docs/how-to/judge.md).",
        ["model", "protocol", "suite", "rate", "judged", "corrected", "labels", "in each suite"],
        rows,
        labels=4,
    )


def _enough(rate: Found) -> str:
    """The labels of the suite with fewest; how many it needs, if these are too few."""
    if rate["in_each"] >= rate["needed"]:
        return str(rate["in_each"])
    return f"{rate['in_each']}, too few: needs {rate['needed']}"


def _with_interval(cell: Found, places: int) -> str:
    return Rate.model_validate(cell).printed(f".{places}f", f".{places}f")
