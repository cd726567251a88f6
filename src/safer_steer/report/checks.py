"""The guard's numbers as a table (`student/checks.py`): did the student see, and learn what it said?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safer_steer.bench.results import NONE
from safer_steer.files.store import read_rows
from safer_steer.report.health import Table
from safer_steer.report.plots import number
from safer_steer.student.checks import CHECKS

Row = dict[str, Any]
COLUMNS = [number for check in CHECKS for number in check.numbers if number.heading]


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
        ["stage", "checks", "dialogues", "with pictures", *(number.heading for number in COLUMNS)],
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
        *(_put_together(checks, key, how) for key, _, _, how in COLUMNS),
    ]


def _put_together(checks: Sequence[Row], key: str, how: str) -> str:
    values = [value for row in checks if (value := number(row.get(key))) is not None]
    if not values:
        return NONE
    if how == "ends":
        return " → ".join(f"{value:.2g}" for value in dict.fromkeys((values[0], values[-1])))
    return f"{max(values):.1g}" if how == "max" else f"{sum(values):,.0f}"
