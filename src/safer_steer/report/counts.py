"""What a run made, in numbers: rates by turn, cost, scripts, data sets, the Stage II filter, how RL went, and
the guard's checks (`student/checks.py`): did the student see, and learn what it said?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safer_steer.bench.journals import kind_of
from safer_steer.bench.rates import NONE, Rate
from safer_steer.bench.results import model_label
from safer_steer.dialogue import Dialogue, Kind
from safer_steer.files.manifest import Manifest
from safer_steer.files.store import read_json, read_rows, rows_of
from safer_steer.metrics import averaged, rates_by_turn
from safer_steer.report.attacks import Cell, Heat, cell_of, link
from safer_steer.report.health import Table
from safer_steer.report.played import is_safe, outcome
from safer_steer.report.plots import number
from safer_steer.report.runs import ShownRun, models_of
from safer_steer.stages import STAGES
from safer_steer.student.checks import CHECKS

PROTOCOL = "multi_turn"
MOST = 20
"""Turns that are shown."""


def by_turn(runs: Sequence[ShownRun]) -> list[Heat]:
    """The maps; those without a number are left out."""
    models = models_of(runs)
    attacks = {model: list(_dialogues(runs, model, lambda one: not is_safe(one))) for model in models}
    twins = {model: list(_dialogues(runs, model, is_safe)) for model in models}
    maps = [
        _map("Safe, attacks", "safe", attacks, "Share of answers at this turn with harmlessness 3."),
        _map("Help, attacks", "help", attacks, "Share of answers at this turn with helpfulness 3."),
        _map("Help, safe twins", "help", twins, "The same on the scripts of safe requests."),
    ]
    return [one for one in maps if one.rows]


def _dialogues(runs: Sequence[ShownRun], model: str, test: Callable[[Dialogue], bool]) -> Iterator[Dialogue]:
    """A model's dialogues of several turns on fixed scripts."""
    for run in runs:
        suites = {
            (file, name): [one.dialogue for one in dialogues.values()]
            for file, by_model in run.bench.items()
            for name, dialogues in by_model.items()
            if run.key(name) == model and kind_of(file) == PROTOCOL
        }
        for dialogues in averaged(suites).values():
            yield from filter(test, dialogues)


def _map(title: str, criterion: str, dialogues: dict[str, list[Dialogue]], note: str) -> Heat:
    by_model = {model: rates_by_turn(rows)[:MOST] for model, rows in dialogues.items()}
    turns = range(1, 1 + max((len(rates) for rates in by_model.values()), default=0))
    rows: list[tuple[str, list[Cell]]] = []
    for model, rates in by_model.items():
        if rates:
            failed = _first_failures(dialogues[model]) if criterion == "safe" else Counter()
            cells = []
            for turn, row in enumerate(rates, 1):
                # to the dialogues that failed first at this turn
                where = link(protocol=PROTOCOL, left=model, first=str(turn), outcome="left:gave_way")
                cells.append(cell_of(Rate.model_validate(row[criterion]), row["n"], where, failed[turn]))
            cells += [Cell()] * (len(turns) - len(cells))
            rows.append((model_label(model), cells))
    return Heat(title, note, [f"turn {turn}" for turn in turns], rows)


def _first_failures(dialogues: Sequence[Dialogue]) -> Counter[int | None]:
    """How many dialogues failed first at each turn."""
    ends = map(outcome, dialogues)
    return Counter(end.turn for end in ends if end.name == "gave_way")


COUNTED = ("calls", "cached", "prompt_tokens", "completion_tokens", "failed", "refused", "unparsable")


def cost_table(run: Path) -> Table | None:
    """A row for each finished stage and each role that it asked; None if none is finished."""
    stages = Manifest(run).stages
    rows, money = [], 0.0
    for stage in [name for name in STAGES if name in stages]:
        seconds, calls = stages[stage].get("seconds"), stages[stage].get("calls") or {}
        took = NONE if seconds is None else f"{seconds:,.0f}"
        for role, account in calls.items():
            paid = account.get("money") or 0.0
            money += paid
            rows.append(
                [stage, str(role), took, *(_count(account.get(key)) for key in COUNTED), f"{paid:.2f}"]
            )
            took = ""
        if took:
            rows.append([stage, NONE, took, *[NONE] * len(COUNTED), NONE])
    if not rows:
        return None
    return Table(
        "Cost",
        "Of finished stages, in all their processes; what came from the cache was paid for once. Money is at"
        f" the prices of the roles in the config: {money:.2f} in all.",
        [
            *("stage", "role", "seconds", "calls", "cached", "tokens in", "tokens out"),
            *("failed", "refused", "unparsable", "money"),
        ],
        rows,
    )


def _count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


Row = dict[str, Any]


def counts_of(run: Path) -> list[tuple[str, list[tuple[str, int]]]]:
    """Tables of counts: seeds by kind, data sets, the Stage II filter with its reasons, RL stop reasons and
    strategies."""
    seeds = [
        (kind.replace("_", "-"), sum(1 for _ in read_rows(path)))
        for kind in map(str, Kind)
        if (path := run / "seeds" / f"{kind}.jsonl").is_file()
    ]
    passes = sum(1 for _ in read_rows(run / "bootstrap" / "kept.jsonl"))
    reasons = Counter[str]()
    with rows_of("bootstrap") as reading:
        for row in reading.rows(run / "bootstrap" / "rejected.jsonl"):
            reasons.update(map(str, row.get("meta", {}).get("reasons", ())))
    bootstrap = [("kept", passes)] * bool(passes or reasons) + [
        (f"rejected: {reason}", count) for reason, count in reasons.most_common()
    ]
    tables = [
        ("Seeds by kind", seeds),
        ("Scripts by data set", _assembled(run)),
        ("Bootstrap filter", bootstrap),
    ]
    tables += [
        (title, _added_up(run, key))
        for title, key in (("RL stop reasons", "stop"), ("RL attack strategies", "strategies"))
    ]
    return [(title, rows) for title, rows in tables if rows]


def _assembled(run: Path) -> list[tuple[str, int]]:
    """Size of each data set, and the number left out by reason."""
    balance = read_json(run / "splits" / "balance.json", "assemble")
    rows = [(name, split["scripts"]) for name, split in (balance.get("splits") or {}).items()]
    reasons = Counter[str]()
    for counts in (balance.get("left_out") or {}).values():
        reasons.update(counts)
    return rows + [(f"left out: {name.replace('_', ' ')}", count) for name, count in reasons.most_common()]


def _added_up(run: Path, key: str) -> list[tuple[str, int]]:
    total = Counter[str]()
    with rows_of("rl") as reading:
        for row in reading.rows(run / "rl" / "metrics.jsonl"):
            total.update({name: int(count) for name, count in (row.get(key) or {}).items()})
    return [(name.replace("_", " "), count) for name, count in total.most_common() if count]


CHECKED = [number for check in CHECKS for number in check.numbers if number.heading]


def training_checks(run: Path, steps: Sequence[Row]) -> Table | None:
    """A row for SFT and for RL; None if neither was checked.

    Args:
        steps: the rows of rl/metrics.jsonl.
    """
    sft = list(read_rows(run / "sft" / "checks.jsonl"))
    rl = [checks for row in steps if isinstance(checks := row.get("checks"), dict)]
    rows = [_row(stage, checks) for stage, checks in (("SFT", sft), ("RL", rl)) if checks]
    if not rows:
        return None
    return Table(
        "Checks",
        "At the first step and every student.check_every. A failed check stops the run;"
        " docs/explanation/checks.md lists them. Compared: dialogues of these steps whose labels, "
        "masks or advantages are those due. Blank"
        " pictures: mean shift of the trained tokens' log-probabilities without what is on the pictures, at"
        " the first and the last check. Engine: largest mean difference of a dialogue's log-probabilities"
        " between trainer and rollout. Both are in nats. Moved: largest change of a weight watched.",
        ["stage", "checks", "dialogues", "with pictures", *(number.heading for number in CHECKED)],
        rows,
        labels=1,
    )


def _row(stage: str, checks: Sequence[Row]) -> list[str]:
    pictures = _put_together(checks, "with_pictures", "sum")
    return [
        stage,
        f"{len(checks):,}",
        _put_together(checks, "dialogues", "sum"),
        pictures if pictures != "0" else "none, so nothing to see",
        *(_put_together(checks, key, how) for key, _, _, how in CHECKED),
    ]


def _put_together(checks: Sequence[Row], key: str, how: str) -> str:
    values = [value for row in checks if (value := number(row.get(key))) is not None]
    if not values:
        return NONE
    if how == "ends":
        return " → ".join(f"{value:.2g}" for value in dict.fromkeys((values[0], values[-1])))
    return f"{max(values):.1g}" if how == "max" else f"{sum(values):,.0f}"
