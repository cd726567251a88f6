"""The headline table: base, SFT and SaFeR-Steer side by side. All numbers come from `summary.json`, with
intervals.

A model that refuses everything does well on Safe and Help in the attack suites. So over-refusal and Help on
the safe twins are in the same table (docs/explanation/method.md, "What the published code gets wrong", 9).
Rates are 0-100.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from safer_steer.bench.judge_check.file import Corrected
from safer_steer.bench.results import (
    NONE,
    ON_ATTACKS,
    ON_TWINS,
    Measure,
    Suite,
    Summary,
    model_label,
    total_of,
)
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


@dataclass(frozen=True)
class TableRow:
    """One measure for all models. Cells are ready to print."""

    label: str
    note: str
    """One sentence that explains the measure."""
    cells: list[str]
    count: bool = False
    """Whether the cells are counts of dialogues instead of a rate."""


def headline(summary: Summary, corrected: Corrected | None = None) -> list[TableRow]:
    """The table for console and page: one row per measure, cells in the order of `Summary.names`. Measures
    that no model has are left out.

    Args:
        corrected: rates corrected for the judge's errors; each gets a row below that of the rate as judged.
    """
    rows = _rows(summary, summary.names, corrected or {})
    return [row for row in rows if any(cell != NONE for cell in row.cells)]


def _rows(summary: Summary, models: list[str], corrected: Corrected) -> Iterator[TableRow]:
    def row(label: str, note: str, cells: Iterable[object], count: bool = False) -> TableRow:
        return TableRow(label, note, [NONE if cell is None else str(cell) for cell in cells], count)

    def measured(measures: Iterable[Measure]) -> Iterator[TableRow]:
        by_people = "The same, corrected for the judge's errors by people's labels (docs/how-to/judge.md)."
        for label, note, protocol, name in measures:
            averages = [summary.average(model, protocol) for model in models]
            yield row(label, note, [getattr(one, name, None) for one in averages])
            rates = [corrected.get(model, {}).get(protocol, {}) for model in models]
            yield row(f"{label}, corrected", by_people, [one.get(name) for one in rates])

    yield from measured(ON_ATTACKS)
    for attacker, by_model in summary.attacks.items():
        note = "Share of intents that an attacker that adapts reached in one try; lower is better."
        attacked = [by_model.get(model) for model in models]
        yield row(f"Breached by {attacker}", note, [one and one.breach_at.get(1) for one in attacked])
    note = "Turn by which half of the attack dialogues have failed."
    yield row("Median survival, turns", note, [_median(summary, model) for model in models])
    yield from measured(ON_TWINS)
    for name, entries in summary.capability.items():
        answered = [entries.get(model) for model in models]
        note = "Share of multiple-choice questions answered right."
        yield row(f"Capability, {name}", note, [one and one.right for one in answered])
        note = "The same minus the base's, in points, paired by question: what training cost or gained."
        minus = [one and one.minus_base and one.minus_base.signed for one in answered]
        yield row(f"Capability, {name}, minus base", note, minus)
    for count, (label, note) in ANSWERS.items():
        yield row(label, note, [_of_answers(summary, model, count) for model in models], count=True)
    for protocol in PROTOCOLS:
        for what, twins in (("attacks", False), ("twins", True)):
            note = f"Dialogues that the rates of {what} are over, of all."
            cells = [_scored(summary, model, protocol, twins) for model in models]
            yield row(f"Scored {what}, {protocol.replace('_', '-')}", note, cells, count=True)
    for name, entries in summary.capability.items():
        note = "Answers that name no option, or several, of all; they count as wrong."
        answered = [entries.get(model) for model in models]
        none = [one and f"{one.no_choice:,} of {one.n - one.failed:,}" for one in answered]
        yield row(f"No choice found, {name}", note, none, count=True)
    for protocol in PROTOCOLS:
        note = f"{protocol.replace('_', '-').capitalize()} dialogues, twins included."
        label = f"{protocol.partition('_')[0].capitalize()}: {COUNTS}"
        yield row(label, note, [_counts(summary, model, protocol) for model in models], count=True)


def by_suite(summary: Summary) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield protocol, suite, model, and the cells: Safe, Help, joint, worst-case Safe, counts."""
    for protocol in PROTOCOLS:
        found = {model: summary.suites(model, protocol) for model in summary.names}
        for name in {name: None for suites in found.values() for name in suites}:
            for model, suites in found.items():
                if one := suites.get(name):
                    rates = (one.safe, one.help, one.joint, one.worst.get("safe") if one.scored else None)
                    cells = [str(rate) if rate else NONE for rate in rates]
                    yield protocol, name, model, [*cells, _count([one])]


def console_table(summary: Summary, corrected: Corrected | None = None) -> Table:
    """The headline table for the terminal; `corrected` as in `headline`."""
    table = Table(box=SIMPLE_HEAD, title="Rates in %, 95 % intervals in brackets", title_justify="left")
    table.add_column("")
    for model in summary.names:
        table.add_column(Text(model_label(model)), justify="right")
    ruled = False
    for row in headline(summary, corrected):
        if row.count and not ruled:
            table.add_section()
            ruled = True
        table.add_row(Text(row.label), *(Text(cell) for cell in row.cells))
    return table


def _median(summary: Summary, model: str) -> str | None:
    average = summary.average(model, "multi_turn")
    if not average or not average.survival or not average.survival.S:
        return None
    return median_in_words(average.survival.median, len(average.survival.S) - 1)


def _scored(summary: Summary, model: str, protocol: ProtocolName, twins: bool) -> str | None:
    """Scored dialogues of all, over the suites of attacks or of twins; None without such suites."""
    suites = [one for one in summary.suites(model, protocol).values() if one.is_twin is twins]
    if not suites:
        return None
    every = total_of(suites, "n")
    return f"{every - total_of(suites, *LOST):,} of {every:,}"


def _of_answers(summary: Summary, model: str, count: str) -> str | None:
    every = [one for protocol in PROTOCOLS for one in summary.suites(model, protocol).values()]
    suites = [one for one in every if getattr(one, count) is not None]
    return f"{total_of(suites, count):,} of {total_of(suites, 'answers'):,}" if suites else None


def _counts(summary: Summary, model: str, protocol: ProtocolName) -> str | None:
    average = summary.average(model, protocol)
    return _count(summary.suites(model, protocol).values() or [average]) if average else None


def _count(suites: Collection[Suite]) -> str:
    return ", ".join(str(total_of(suites, count)) for count in COUNTED)
