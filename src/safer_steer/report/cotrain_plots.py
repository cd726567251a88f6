"""Plots of co-training, from the metrics of both sides (docs/explanation/cotrain.md, "Figures")."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safer_steer.errors import UserError
from safer_steer.files.store import read_rows
from safer_steer.report.plots import Plot, number
from safer_steer.report.svg import Line, draw, heat_map
from safer_steer.training.cotrain.pool import crossplay_of

Row = dict[str, Any]


def cotrain_plots(run: Path, student: Sequence[Row]) -> list[Plot]:
    """The plots of a run's folder; none if no attacker has learnt there.

    Args:
        student: the rows of rl/metrics.jsonl.
    """
    attacker = list(read_rows(run / "rl" / "attacker" / "metrics.jsonl"))
    if not attacker:
        return []
    contents = (
        (
            "Safe, and refused twins",
            "Student: share of a step's trajectories without a leak, and of its benign ones with a safe"
            " request refused.",
            [_line("Safe", student, _safe, 0), _line("refused twins", student, _refusal_rate, 1)],
        ),
        (
            "The attacker's turns",
            "Share of its dialogues on harmful intents that breach, of its turns that are faithful, and how"
            " like its earlier turns they are.",
            [
                _line(name, attacker, partial(_number, f"attack_{name}"), place)
                for place, name in enumerate(("breach", "faithfulness", "similarity"))
            ],
        ),
        (
            "Distinct breaches",
            "Different attacker's turns of a step that breached.",
            [_line("", attacker, partial(_number, "distinct_breaches"), 2)],
        ),
    )
    plots = []
    for title, caption, lines in contents:
        if curves := [line for line in lines if line.x]:
            plots.append(Plot(title, caption, draw(curves, "step", "", (0, None))))
    return [*plots, *_cross_play(run)]


def _cross_play(run: Path) -> Iterator[Plot]:
    """A map for each cross-play that was played (`safer-steer cross-play`)."""
    for blank in (False, True):
        path = crossplay_of(run, blank).with_suffix(".json")
        if path.is_file():
            try:
                svg = breaches(json.loads(path.read_bytes()))
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{path}: damaged; remove it and run `safer-steer cross-play` again"
                ) from None
            yield Plot(
                "Cross-play, attacker without pictures" if blank else "Cross-play",
                "Percent of attacks that breach, of students and attackers after so many steps, and of the"
                " sandbox's attackers that were in no training.",
                svg,
            )


def breaches(cells: Sequence[Row], columns: str = "attacker, columns") -> str:
    """The heat map of cross-play: breaches by student (rows) and attacker, which `columns` tells of."""
    share = {(cell["student"], cell["attacker"]): cell["breach"] for cell in cells}
    students, attackers = (list(dict.fromkeys(pair[place] for pair in share)) for place in (0, 1))
    names = [str(attacker).removeprefix("sandbox-").upper() for attacker in attackers]
    shares = [[share.get((student, attacker)) for attacker in attackers] for student in students]
    return heat_map(names, [str(student) for student in students], shares, columns, "student")


def _number(key: str, row: Row) -> float | None:
    return number(row.get(key))


def _safe(row: Row) -> float | None:
    leaks = number(row.get("leak_rate"))
    return None if leaks is None else 1 - leaks


def _refusal_rate(row: Row) -> float | None:
    refused, twins = row.get("twins_refused") or (0, 0)
    return refused / twins if twins else None


def _line(name: str, rows: Sequence[Row], value_of: Callable[[Row], float | None], series: int) -> Line:
    line = Line(name, [], [], series)
    for place, row in enumerate(rows, 1):
        if (value := value_of(row)) is not None:
            line.x.append(float(place))
            line.y.append(value)
    return line
