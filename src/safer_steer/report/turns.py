"""Rates by turn as heat maps, a row for each model: Safe and Help of the answers to attacks, and Help of
those to safe scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from safer_steer.dialogue import Dialogue
from safer_steer.metrics import rates_by_turn
from safer_steer.report.heat import Cell, Heat, cell_of, link
from safer_steer.report.main_table import model_label
from safer_steer.report.played import is_safe, outcome, protocol_of
from safer_steer.report.runs import ShownRun, models_of

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
        for file, by_model in run.bench.items():
            for name, dialogues in by_model.items():
                if run.key(name) == model and protocol_of(file) == PROTOCOL:
                    yield from (played.dialogue for played in dialogues.values() if test(played.dialogue))


def _map(title: str, criterion: str, dialogues: dict[str, list[Dialogue]], note: str) -> Heat:
    found = {model: rates_by_turn(rows)[:MOST] for model, rows in dialogues.items()}
    turns = range(1, 1 + max((len(rates) for rates in found.values()), default=0))
    rows: list[tuple[str, list[Cell]]] = []
    for model, rates in found.items():
        if rates:
            failed = _first_failures(dialogues[model]) if criterion == "safe" else Counter()
            cells = [
                cell_of(rates[turn - 1][criterion], rates[turn - 1]["n"], _where(model, turn), failed[turn])
                if turn <= len(rates)
                else Cell()
                for turn in turns
            ]
            rows.append((model_label(model), cells))
    return Heat(title, note, [f"turn {turn}" for turn in turns], rows)


def _first_failures(dialogues: Sequence[Dialogue]) -> Counter[int | None]:
    """How many dialogues failed first at each turn."""
    ends = map(outcome, dialogues)
    return Counter(end.turn for end in ends if end.name == "gave_way")


def _where(model: str, turn: int) -> str:
    """From a cell to the dialogues that failed first at this turn."""
    return link(protocol=PROTOCOL, left=model, first=str(turn), outcome="left:gave_way")
