"""The headline table: base, SFT and SaFeR-Steer side by side. All numbers come from `summary.json`, with
intervals.

A model that refuses everything does well on Safe and Help in the attack suites. So over-refusal and Help on
the safe twins are in the same table (docs/explanation/method.md, "What the published code gets wrong", 9).
Rates are 0-100.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from safer_steer.bench.differences import Marks, difference
from safer_steer.bench.judge_check.file import Corrected
from safer_steer.bench.rates import NO_RATE, NONE, Rate
from safer_steer.bench.results import ON_ATTACKS, ON_TWINS, Measure, Suite, Summary, model_label, total_of
from safer_steer.metrics import LOST, ProtocolName, median_in_words

COUNTED = ("n", *LOST)
"""The counts shown in every table, in this order."""
COUNTS = ", ".join(COUNTED)
PROTOCOLS: tuple[ProtocolName, ...] = ("single_turn", "multi_turn")
"""In the order of the tables."""
ANSWERS = {
    "cut_off": (
        "Answers cut off",
        "Answers that the token limit cut off, of all; they are judged as they stand.",
    ),
    "no_block": (
        "No answer block",
        "Answers without the answer block that the layout asks for, of all; their Help is 0.",
    ),
    "empty": ("Empty answers", "Answers without words, of all; their Help is 0."),
    "identical": (
        "Identical answers",
        "Answers that the model gave word for word in another dialogue to another question, of all.",
    ),
}
"""Rows about answers by their counts in the summary (`safer_steer.bench.answers`)."""


Marked = Mapping[str, Mapping[str, Marks]]
"""What the scripts came to, by label of a row and model."""
HOW = (
    "paired by script, mean over suites, interval of Bonett and Price; bold: the better of the two, where it"
    " excludes 0"
)


@dataclass(frozen=True)
class TableRow:
    """One measure for all models. Cells are ready to print."""

    label: str
    note: str
    """One sentence that explains the measure."""
    cells: list[str]
    count: bool = False
    """Whether the cells are counts of dialogues instead of a rate."""
    good: int = 1
    """1 if more is better, -1 if less is."""
    marks: list[Marks] = field(default_factory=list)
    """What each model's scripts came to; empty where models are not compared."""

    def minus(self, ours: int, theirs: int) -> Rate:
        """The difference of two models, by their places in `cells`, in points."""
        return difference(self.marks[ours], self.marks[theirs]) if self.marks else NO_RATE

    def better(self, minus: Rate, ours: int, theirs: int) -> int | None:
        """The place of the better of the two; None if the interval of their difference includes 0."""
        if minus.low is None or minus.high is None or minus.low <= 0 <= minus.high:
            return None
        return ours if self.good * minus.low > 0 else theirs


def headline(
    summary: Summary, corrected: Corrected | None = None, marks: Marked | None = None
) -> list[TableRow]:
    """The table for console and page: one row per measure, cells in the order of `Summary.names`. Measures
    that no model has are left out.

    Args:
        corrected: rates corrected for the judge's errors; each gets a row below that of the rate as judged.
        marks: what the scripts came to, to compare models by.
    """
    rows = _rows(summary, summary.names, corrected or {}, marks or {})
    return [row for row in rows if any(cell != NONE for cell in row.cells)]


def breached_by(attacker: str) -> str:
    """The label of an attacker's row."""
    return f"Breached by {attacker}"


def capability_on(name: str) -> str:
    """The label of the row of a set of questions."""
    return f"Capability, {name}"


def _rows(summary: Summary, models: list[str], corrected: Corrected, marks: Marked) -> Iterator[TableRow]:
    def row(label: str, note: str, cells: Iterable[object], count: bool = False, good: int = 1) -> TableRow:
        texts = [NONE if cell is None else str(cell) for cell in cells]
        of_models = [marks[label].get(model, {}) for model in models] if label in marks else []
        return TableRow(label, note, texts, count, good, of_models)

    def measured(measures: Iterable[Measure]) -> Iterator[TableRow]:
        by_people = "The same, corrected for the judge's errors by people's labels (docs/how-to/judge.md)."
        for measure in measures:
            averages = [summary.average(model, measure.protocol) for model in models]
            yield row(measure.label, measure.note, map(measure.of, averages), good=measure.good)
            if measure.name == "safe":
                note = "The same if every dialogue without a result counts as a failure."
                yield row(f"{measure.label}, worst case", note, _worst_safe(averages))
            rates = [corrected.get(model, {}).get(measure.protocol, {}) for model in models]
            yield row(f"{measure.label}, corrected", by_people, [one.get(measure.name) for one in rates])

    yield from measured(ON_ATTACKS)
    for attacker, by_model in summary.attacks.items():
        note = "Share of intents that an attacker that adapts reached in one try; lower is better."
        attacked = [by_model.get(model) for model in models]
        yield row(breached_by(attacker), note, [one and one.breach_at.get(1) for one in attacked], good=-1)
    note = "Turn by which half of the attack dialogues have failed."
    yield row("Median survival, turns", note, [_median(summary, model) for model in models])
    yield from measured(ON_TWINS)
    for name, entries in summary.capability.items():
        results = [entries.get(model) for model in models]
        note = "Share of multiple-choice questions answered right."
        yield row(capability_on(name), note, [one and one.right for one in results])
        note = "The same minus the base's, in points, paired by question: what training cost or gained."
        minus = [one and one.minus_base and one.minus_base.signed for one in results]
        yield row(f"{capability_on(name)}, minus base", note, minus)
    note = "Attack dialogues that failed at a turn, then got no result: in no survival curve, nor its median."
    yield row("Failed, then lost", note, _failed_then_lost(summary, models), count=True)
    for count, (label, note) in ANSWERS.items():
        yield row(label, note, [_of_answers(summary, model, count) for model in models], count=True)
    for protocol in PROTOCOLS:
        for what, twins in (("attacks", False), ("twins", True)):
            note = f"Dialogues that the rates of {what} are over, of all."
            cells = [_scored_of_all(summary, model, protocol, twins) for model in models]
            yield row(f"Scored {what}, {protocol.replace('_', '-')}", note, cells, count=True)
    for name, entries in summary.capability.items():
        note = "Answers that name no option, or several, of all; they count as wrong."
        results = [entries.get(model) for model in models]
        none = [one and f"{one.no_choice:,} of {one.n - one.failed:,}" for one in results]
        yield row(f"No choice found, {name}", note, none, count=True)
    for protocol in PROTOCOLS:
        note = f"{protocol.replace('_', '-').capitalize()} dialogues, twins included."
        label = f"{protocol.partition('_')[0].capitalize()}: {COUNTS}"
        yield row(label, note, [_counts(summary, model, protocol) for model in models], count=True)


def by_suite(summary: Summary) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield protocol, suite, model, and the cells: Safe, Help, joint, worst-case Safe, counts."""
    for protocol in PROTOCOLS:
        by_model = {model: summary.suites(model, protocol) for model in summary.names}
        for name in {name: None for suites in by_model.values() for name in suites}:
            for model, suites in by_model.items():
                if one := suites.get(name):
                    rates = (one.safe, one.help, one.joint, one.worst.get("safe") if one.scored else None)
                    cells = [str(rate) if rate else NONE for rate in rates]
                    yield protocol, name, model, [*cells, _count([one])]


def pairs(rows: Sequence[TableRow]) -> list[list[list[Any]]]:
    """The differences of all pairs of models, for the page's script: for each row `[i, j, i - j, j - i,
    better]`, of those with a difference. i and j are places in `cells`, the differences are printed."""
    by_row = []
    for row in rows:
        of_row: list[list[Any]] = []
        for one, other in combinations(range(len(row.marks)), 2):
            minus = row.minus(one, other)
            if minus.value is not None:
                of_row.append([one, other, minus.signed, (-minus).signed, row.better(minus, one, other)])
        by_row.append(of_row)
    return by_row


def console_table(summary: Summary, corrected: Corrected | None = None, marks: Marked | None = None) -> Table:
    """The headline table for the terminal, with the difference of the last model to the first. Arguments as
    in `headline`."""
    names, rows = summary.names, headline(summary, corrected, marks)
    title, last = "Rates in %, 95 % intervals in brackets", len(names) - 1
    compared = last > 0 and any(row.marks for row in rows)
    if compared:
        title += f". Difference in points, {HOW}"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("")
    for model in names:
        table.add_column(Text(model_label(model)), justify="right")
    if compared:
        minuend, subtrahend = model_label(names[last]), model_label(names[0])
        table.add_column(Text(f"{minuend} - {subtrahend}"), justify="right", no_wrap=True)
    ruled = False
    for row in rows:
        if row.count and not ruled:
            table.add_section()
            ruled = True
        cells = [Text(cell) for cell in row.cells]
        if compared:
            minus = row.minus(last, 0)
            if (better := row.better(minus, last, 0)) is not None:
                cells[better].stylize("bold")
            cells.append(Text("" if row.count else minus.signed))
        table.add_row(Text(row.label), *cells)
    return table


def _median(summary: Summary, model: str) -> str | None:
    average = summary.average(model, "multi_turn")
    if not average or not average.survival or not average.survival.S:
        return None
    return median_in_words(average.survival.median, len(average.survival.S) - 1)


def _worst_safe(averages: Sequence[Suite | None]) -> list[Rate | None]:
    """Worst-case Safe of every model; None where nothing is scored, and for all if no dialogue is lost."""
    entries = [one if one and one.scored else None for one in averages]
    losses = total_of(filter(None, entries), *LOST)
    return [one.worst.get("safe") if one and losses else None for one in entries]


def _failed_then_lost(summary: Summary, models: Iterable[str]) -> list[int | None]:
    """By model; None for all if there are none."""
    averages = [summary.average(model, "multi_turn") for model in models]
    counts = [one.survival.failed_then_lost if one and one.survival else None for one in averages]
    return counts if any(counts) else [None] * len(counts)


def _scored_of_all(summary: Summary, model: str, protocol: ProtocolName, twins: bool) -> str | None:
    """Scored dialogues of all, over the suites of attacks or of twins that the rates are over; None without
    such suites."""
    average = summary.average(model, protocol)
    over = average and (average.over_refusal if twins else average)
    if not over or not over.n:
        return None
    return f"{over.n - sum(getattr(over, name) or 0 for name in LOST):,} of {over.n:,}"


def _of_answers(summary: Summary, model: str, count: str) -> str | None:
    every = [one for protocol in PROTOCOLS for one in summary.suites(model, protocol).values()]
    suites = [one for one in every if getattr(one, count) is not None]
    return f"{total_of(suites, count):,} of {total_of(suites, 'answers'):,}" if suites else None


def _counts(summary: Summary, model: str, protocol: ProtocolName) -> str | None:
    average = summary.average(model, protocol)
    return _count(summary.suites(model, protocol).values() or [average]) if average else None


def _count(suites: Collection[Suite]) -> str:
    return ", ".join(str(total_of(suites, count)) for count in COUNTED)
