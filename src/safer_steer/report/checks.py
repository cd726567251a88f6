"""The guard's numbers as a table (`student/guard.py`): did the student see, and learn what it said?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safer_steer.health import Table
from safer_steer.report.table import NONE, at, number
from safer_steer.store import read_rows

Row = dict[str, Any]


def training_checks(run: Path, steps: Sequence[Row]) -> Table | None:
    """A row for SFT and for RL; None if neither was checked.

    Args:
        steps: the rows of rl/metrics.jsonl.
    """
    sft = list(read_rows(run / "sft" / "checks.jsonl"))
    rl = [checks for row in steps if isinstance(checks := row.get("checks"), dict)]
    rows = [_row(stage, found) for stage, found in (("SFT", sft), ("RL", rl)) if found]
    if not rows:
        return None
    return Table(
        "Checks",
        "Of the dialogues in one forward pass, at the first step and every student.check_every. A failed"
        " check stops the run. Blank pictures: mean shift of the trained tokens' log-probabilities without"
        " what is on the pictures, at the first and the last check. Engine: largest mean difference of a"
        " dialogue's log-probabilities between trainer and rollout. Both are in nats.",
        [
            *("stage", "checks", "dialogues", "with pictures", "blank pictures", "engine"),
            *("picture tokens", "with features", "rendered again"),
        ],
        rows,
        labels=1,
    )


def _row(stage: str, found: Sequence[Row]) -> list[str]:
    shifts = [shift for row in found if (shift := number(at(row, "blank_shift"))) is not None]
    gaps = [gap for row in found if (gap := number(at(row, "engine_gap"))) is not None]
    pictures = _sum(found, "with_pictures")
    return [
        stage,
        f"{len(found):,}",
        _sum(found, "dialogues"),
        pictures if pictures != "0" else "none, so nothing to see",
        " → ".join(f"{shift:.2g}" for shift in dict.fromkeys((shifts[0], shifts[-1]))) if shifts else NONE,
        f"{max(gaps):.1g}" if gaps else NONE,
        *(_sum(found, key) for key in ("picture_tokens", "picture_features", "rendered_again")),
    ]


def _sum(found: Sequence[Row], key: str) -> str:
    known = [value for row in found if (value := number(at(row, key))) is not None]
    return f"{sum(known):,.0f}" if known else NONE
