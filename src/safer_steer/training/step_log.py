"""The files of Stage III that grow by the step: rl/metrics.jsonl and rl/trajectories.jsonl."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from safer_steer.files.store import write_atomic

RowOf = Callable[[int, dict[str, Any]], dict[str, Any] | None]
"""The row of a step (from 1) with what the trainer logs of it; None for no row."""


class StepLog(TrainerCallback):
    """Appends a row to rl/metrics.jsonl for each step of the trainer."""

    def __init__(self, path: Path, row_of: RowOf, saved: Callable[[int], None] = lambda step: None) -> None:
        """`saved` is called in the first process with the steps that a new checkpoint has."""
        self.path, self.row_of, self.saved = path, row_of, saved

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        row = self.row_of(state.global_step, logs) if "loss" in logs else None
        if row and state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.saved(state.global_step)


def rollback(folder: Path, step: int) -> None:
    """Delete the trajectories and metrics of steps after the checkpoint at `step`; they will be run again."""
    for name, of in (
        ("trajectories.jsonl", lambda row: int(row["id"][:5]) < step),
        ("metrics.jsonl", lambda row: row["step"] <= step),
    ):
        path = folder / name
        if path.exists():
            # As bytes: a kill can cut a character in half, and `splitlines` splits at separators inside text.
            with path.open("rb") as rows:
                kept = [row for row in rows if row.endswith(b"\n") and of(json.loads(row))]
            write_atomic(path, b"".join(kept))
