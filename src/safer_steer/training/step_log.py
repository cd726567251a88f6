"""The files of a training run that grow by the step: rl/metrics.jsonl and rl/trajectories.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from safer_steer.files.store import write_atomic
from safer_steer.training.rollouts import Rollouts

DRIFT = ("logprob_gap", "logprob_gap_max", "importance_ratio", "importance_ess")
"""How far the engine's log-probabilities are from the trainer's; see `measured.MeasuredTrainer`."""


class StepLog(TrainerCallback):
    """Writes rl/metrics.jsonl: one row per step with the metrics of the rollouts and the trainer. Deletes the
    journals of saved steps."""

    def __init__(self, rollouts: Rollouts, path: Path) -> None:
        self.rollouts, self.path = rollouts, path

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        step = state.global_step
        if logs is None or "loss" not in logs or step - 1 not in self.rollouts.metrics:
            return
        found = self.rollouts.metrics.pop(step - 1)
        if not state.is_world_process_zero:
            return
        trained = {
            name: logs.get(name)
            for name in ("loss", "kl", "grad_norm", "learning_rate", "entropy", "step_time", *DRIFT)
        }
        row = {"step": step, **found, **trained}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.rollouts.journals.forget(state.global_step)


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
