"""What a run has taken: seconds, calls, tokens and money, by stage and role."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safer_steer.files.manifest import Manifest
from safer_steer.report.health import Table
from safer_steer.report.main_table import NONE, at, number
from safer_steer.stages import STAGES

COUNTED = ("calls", "cached", "prompt_tokens", "completion_tokens", "failed", "refused", "unparsable")


def cost_table(run: Path) -> Table | None:
    """A row for each finished stage and each role that it asked; None if none is finished."""
    stages = Manifest(run).stages
    rows, money = [], 0.0
    for stage in [name for name in STAGES if name in stages]:
        seconds = number(at(stages[stage], "seconds"))
        took = NONE if seconds is None else f"{seconds:,.0f}"
        calls = at(stages[stage], "calls")
        for role, account in (calls if isinstance(calls, Mapping) else {}).items():
            paid = number(at(account, "money")) or 0.0
            money += paid
            rows.append([stage, str(role), took, *(_count(account, key) for key in COUNTED), f"{paid:.2f}"])
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


def _count(account: Any, key: str) -> str:
    value = number(at(account, key))
    return NONE if value is None else f"{value:,.0f}"
