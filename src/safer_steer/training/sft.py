"""Supervised fine-tuning with TRL on the kept dialogues, on exact assistant tokens only.

TRL's `assistant_only_loss` needs generation markers in the chat template. Here `Transcript` records which
tokens are the assistant's, and our own collator makes the labels, for any model family.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from safer_steer.config import Config
from safer_steer.data.bootstrap import single_turn
from safer_steer.dialogue import Dialogue, read_dialogues
from safer_steer.errors import UserError
from safer_steer.files.images import pictures_in
from safer_steer.files.store import read_rows, write_atomic
from safer_steer.student import processes
from safer_steer.student.assistant import add_user, shown_in
from safer_steer.student.given import Collated, Trained, given_to_sft
from safer_steer.student.guard import Guard, Guarded
from safer_steer.student.load import load_student
from safer_steer.student.modules import freeze_vision, hold_modes
from safer_steer.student.renderer import Renderer
from safer_steer.student.sharding import sharding_arguments, with_mixed_precision
from safer_steer.student.training import (
    Milestones,
    batching,
    common_arguments,
    lora,
    save_trained,
    seed_everything,
    train,
    training_dtype,
)
from safer_steer.student.transcript import Transcript, labels, model_inputs
from safer_steer.training.padding import Sorted, text_length
from safer_steer.training.trainers import StepLog, gone_back

CHECKS = "checks.jsonl"
"""The guard's numbers (`student/guard.py`), a row for each step checked."""
METRICS = "metrics.jsonl"
"""The loss and the seconds of each step."""


class Collator:
    """Turns row numbers into a batch of dialogues: input ids, pictures, and labels on the assistant's
    tokens."""

    def __init__(self, dialogues: list[Dialogue], renderer: Renderer, folder: Path, config: Config) -> None:
        self.dialogues, self.renderer, self.folder, self.config = dialogues, renderer, folder, config
        self.pictures_of = pictures_in(folder, config.student.max_pixels)
        # The data loader is at most a batch ahead of the loss.
        self.collated = Collated(2 * config.bootstrap.sft.batch_size)
        self.left_out: dict[str, int] = {}
        """How many turns at its end were not trained, of each dialogue that is too long."""

    def transcript(self, dialogue: Dialogue) -> Transcript:
        """A finished dialogue as ids. Every assistant turn is a target given its history; user tokens carry
        no loss.

        If the dialogue is longer than `student.max_length`, whole turns are dropped from the end.
        """
        student = self.config.student
        transcript = Transcript(self.renderer)
        for turn, images in zip(dialogue.turns, dialogue.images_by_turn(), strict=True):
            longer = transcript.copy()
            add_user(longer, turn.user, self.pictures_of(images))
            longer.add_answer(turn.assistant or "")
            if len(longer.ids) > student.max_length:
                if not transcript.ids:
                    raise UserError(
                        f"bootstrap: {dialogue.id}: its first turn is longer than"
                        f" student.max_length = {student.max_length}; raise it"
                    )
                self.left_out[dialogue.id] = len(dialogue.turns) - len(transcript.ends)
                break
            transcript = longer
        return transcript

    def spoken(self) -> list[int]:
        """Number of assistant tokens trained in each dialogue, end tokens included."""
        return [sum(self.transcript(dialogue).mask) for dialogue in self.dialogues]

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        dialogues = [self.dialogues[row["row"]] for row in rows]
        transcripts = [self.transcript(dialogue) for dialogue in dialogues]
        for dialogue, transcript in zip(dialogues, transcripts, strict=True):
            part = dialogue.model_copy(update={"turns": dialogue.turns[: len(transcript.ends)]})
            self.collated.note(transcript.ids, Trained(part, transcript.mask))
        batch = model_inputs(transcripts, "right")
        return batch | {"labels": labels(transcripts, batch["input_ids"].shape[1])}


class GuardedSFT(Guarded, Sorted, SFTTrainer):
    """TRL's trainer, with a guard and little padding."""


def sft_arguments(config: Config, folder: Path) -> dict[str, Any]:
    """TRL's arguments for this config, as plain values."""
    sft = config.bootstrap.sft
    return {
        **common_arguments(config, folder / "sft", sft.save_steps, config.seed),
        "learning_rate": sft.learning_rate,
        **batching(sft.batch_size, sft.micro_batch_size, "bootstrap.sft.micro_batch_size"),
        "num_train_epochs": sft.epochs,
        "max_steps": sft.max_steps,
        "lr_scheduler_type": sft.schedule,
        "warmup_steps": sft.warmup_ratio,
        "weight_decay": sft.weight_decay,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }


def in_single_turns(several: Collator) -> tuple[Collator, dict[str, Any]]:
    """The single-turn set to train on instead of the multi-turn set, with about as many assistant tokens, and
    what was matched (`single_turn.facts`)."""
    folder, config = several.folder, several.config
    singles = read_dialogues(folder / "bootstrap" / single_turn.FOLDER / "kept.jsonl")
    collator = Collator(singles, several.renderer, folder, config)
    tokens, targets = collator.spoken(), several.spoken()
    indices = single_turn.matched(tokens, sum(targets), config.seed)
    collator.dialogues = [collator.dialogues[index] for index in indices]
    return collator, single_turn.facts(indices, tokens, targets)


def fine_tune(
    config: Config,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train the base student on bootstrap/kept.jsonl. Resumes from the last complete checkpoint. Returns
    sft/model.

    Args:
        say: called with what was matched if `bootstrap.sft.single_turn` is on; sft/single_turn.json has it
            too. Called at the end with how much was too long to be trained on, if anything was.
    """
    out = folder / "sft" / "model"
    if processes.decided(out.exists):
        return out
    seed_everything(config.seed)
    student = load_student(config.student, dtype=training_dtype(config.student))
    collator = Collator(read_dialogues(folder / "bootstrap" / "kept.jsonl"), student.renderer, folder, config)
    facts = None
    if config.bootstrap.sft.single_turn:
        collator, facts = in_single_turns(collator)
    if config.student.freeze_vision:
        freeze_vision(student.model)
    trainer = GuardedSFT(
        model=student.model,
        args=with_mixed_precision(
            SFTConfig(**sft_arguments(config, folder), **sharding_arguments(config.student, student.model))
        ),
        train_dataset=Dataset.from_dict({"row": list(range(len(collator.dialogues)))}),
        data_collator=collator,
        processing_class=student.renderer.processor,
        peft_config=lora(config.student, student.model),
        callbacks=[Milestones(progress), StepLog(folder / "sft" / METRICS, _Timed())],
    )
    if facts and trainer.is_world_process_zero():
        write_atomic(folder / "sft" / single_turn.MATCHED, json.dumps(facts, indent=1) + "\n")
        if say:
            say(f"sft: {single_turn.in_words(facts)}")
    # Qwen2.5-VL reports False. The trainer would then average the means of the micro-batches, and a short
    # dialogue would weigh as much as a long one. TRL's loss divides by the step's target tokens, so True is
    # right for every model.
    trainer.model_accepts_loss_kwargs = True
    hold_modes(trainer.model)
    trainer.lengths = [text_length(dialogue) for dialogue in collator.dialogues]
    pictures, note = partial(shown_in, collator.pictures_of), partial(_note_checks, folder / "sft" / CHECKS)
    known_of = collator.collated.known
    Guard("sft", config.student, student.renderer, given_to_sft, known_of, pictures, note).watch(trainer)
    train(trainer, processes.decided(partial(gone_back, folder / "sft")), config.student)
    left_out = {id: turns for part in processes.gathered(collator.left_out) for id, turns in part.items()}
    if say and left_out:
        say(
            f"sft: warning: {len(left_out)} dialogues are longer than student.max_length ="
            f" {config.student.max_length}: {sum(left_out.values())} turns at their ends were not trained on"
        )
    save_trained(trainer, student.renderer.processor, out, config.student, config.student.base)
    return out


class _Timed:
    """The row of a step, with its seconds."""

    def __init__(self) -> None:
        self.since = time.monotonic()

    def __call__(self, step: int, logs: dict[str, Any]) -> dict[str, Any]:
        before, self.since = self.since, time.monotonic()
        names = ("loss", "grad_norm", "learning_rate")
        return {
            "step": step,
            **{name: logs.get(name) for name in names},
            "step_time": round(self.since - before, 3),
        }


def _note_checks(path: Path, step: int, numbers: dict[str, Any]) -> None:
    """Write a checked step's row. Rows of steps that are repeated after a kill are replaced."""
    rows = [row for row in read_rows(path) if row["step"] <= step]
    rows.append({"step": step + 1, **numbers})
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
