"""The baseline DPO, with TRL's trainer: the SFT student prefers its better answers, offline, in one round.

This module provides the pairs (`preferences.py`) and a collator that keeps their exact ids: the dialogue is
the prompt, with all its pictures, and the two answers to its last turn are what is compared. TRL provides the
loss, the reference, optimiser and checkpoints. Its own collator renders text anew.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from safer_steer.config import Config
from safer_steer.config.rl import Reinforce
from safer_steer.config.whole import divisor
from safer_steer.data.assembly.splits import read_split
from safer_steer.dialogue import Dialogue
from safer_steer.episode import Critic
from safer_steer.errors import UserError
from safer_steer.files.images import PicturesOf, pictures_in
from safer_steer.files.store import write_atomic
from safer_steer.student.adapters import base_of
from safer_steer.student.assistant import StudentAssistant, add_user, shown_in
from safer_steer.student.given import Collated, Trained, given_to_dpo
from safer_steer.student.guard import Guard, Guarded
from safer_steer.student.load import empty_model, load_model_config, load_student, renderer_of
from safer_steer.student.modules import freeze_vision, hold_modes
from safer_steer.student.policy import PolicyOf, SampledStudent
from safer_steer.student.renderer import Renderer
from safer_steer.student.training import (
    Milestones,
    beginning,
    common_arguments,
    loading,
    save_trained,
    seed_everything,
    start_of,
    train,
)
from safer_steer.student.transcript import Transcript, model_inputs, padded
from safer_steer.student.transformers_policy import in_process
from safer_steer.training.draws import steps_of, too_few_seeds
from safer_steer.training.padding import Sorted, text_length
from safer_steer.training.preferences import Candidate, Pair, counts, drawn, pairs_of, play_seeds
from safer_steer.training.trainers import StepLog, gone_back
from safer_steer.workers import Progress

METRICS = {
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "chosen": "rewards/chosen",
    "rejected": "rewards/rejected",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}
"""What rl/metrics.jsonl calls TRL's numbers. Rewards are implicit: beta times the log-ratio to the SFT
student."""
SIZE = "pairs_a_step"
"""The file in rl/ that holds the size of the steps, for a run that goes on."""


def pairs_a_step(rl: Reinforce, pairs: int, steps: int) -> int:
    """Of one pass over the pairs in at most `steps` steps of equal size, which are split into like
    micro-batches."""
    each = ceil(pairs / steps)
    accumulated = ceil(each / _together(rl))
    return accumulated * ceil(each / accumulated)


def _together(rl: Reinforce) -> int:
    """The most pairs of a micro-batch: a pair is two trajectories."""
    return max(1, rl.micro_batch_size // 2)


def dpo_arguments(config: Config, folder: Path, size: int | None = None) -> dict[str, Any]:
    """TRL's arguments for this config, as plain values: one pass in steps of `size` pairs. Without it, those
    of the batches are left out."""
    rl = config.rl
    batches = {}
    if size:
        together = divisor(size, _together(rl))
        batches = {
            "per_device_train_batch_size": together,
            "gradient_accumulation_steps": size // together,
        }
    return {
        **common_arguments(config, folder / "rl", rl.save_steps, config.rl_seed),
        "learning_rate": rl.learning_rate,
        **batches,
        "num_train_epochs": 1,
        "lr_scheduler_type": rl.schedule,
        "weight_decay": rl.weight_decay,
        "beta": rl.beta,
        "max_length": None,
    }


class PairCollator:
    """Turns row numbers into a batch of pairs: the chosen answers in its first half, the rejected in its
    second."""

    def __init__(self, pairs: list[Pair], renderer: Renderer, pictures_of: PicturesOf) -> None:
        self.pairs, self.renderer, self.pictures_of = pairs, renderer, pictures_of
        self.collated = Collated(2 * len(pairs))

    def transcript(self, pair: Pair, answer: Candidate) -> tuple[Transcript, list[int]]:
        """The dialogue up to this answer, and a mask that is 1 on the answer's sampled tokens alone."""
        dialogue, transcript, prompt = pair.played.dialogue, Transcript(self.renderer), 0
        history = [answers[0] for answers in pair.played.turns[: pair.turn]]
        for turn, images, candidate in zip(
            dialogue.turns, dialogue.images_by_turn(), [*history, answer], strict=False
        ):
            add_user(transcript, turn.user, self.pictures_of(images))
            prompt = len(transcript.ids)
            transcript.add_assistant(candidate.ids, [0.0] * len(candidate.ids))
        return transcript, [0] * prompt + transcript.mask[prompt:]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pairs = [self.pairs[row["row"]] for row in rows]
        both = [(pair, pair.chosen) for pair in pairs] + [(pair, pair.rejected) for pair in pairs]
        transcripts = [self.transcript(pair, answer) for pair, answer in both]
        for row, ((pair, answer), (transcript, mask)) in enumerate(zip(both, transcripts, strict=True)):
            rival, _ = transcripts[(row + len(pairs)) % len(transcripts)]
            trained = Trained(
                _spoken(pair, answer),
                transcript.mask,
                targets=mask,
                credit=1.0 if answer is pair.chosen else -1.0,
                rival=rival.ids,
            )
            self.collated.note(transcript.ids, trained)
        batch = model_inputs([transcript for transcript, _ in transcripts], "right")
        return batch | {"completion_mask": padded([mask for _, mask in transcripts], 0, "right")}


def _spoken(pair: Pair, answer: Candidate) -> Dialogue:
    """The dialogue up to this answer."""
    turns = pair.played.dialogue.turns[: pair.turn + 1]
    last = turns[-1].model_copy(update={"assistant": answer.text})
    return pair.played.dialogue.model_copy(update={"turns": [*turns[:-1], last]})


class GuardedDPO(Guarded, Sorted, DPOTrainer):
    """TRL's trainer, with a guard and little padding."""


def prefer(
    config: Config,
    folder: Path,
    tutor: Critic,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    wait: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
    policy_of: PolicyOf = in_process,
) -> Path:
    """Train the SFT student (or the base) on preference pairs of its own answers, in one process. Resumes
    where it stopped. Returns rl/model. Raises as `preferences.play_seeds`.

    Args:
        tutor: scores every answer; it writes no user turns.
        progress: called with dialogues and steps done, and all.
        say: told how many pairs there are.
        wait: as in `grpo.reinforce`.
        policy_of: makes the policy that the answers are sampled from.
    """
    out = folder / "rl" / "model"
    if out.exists():
        return out
    rl, student = config.rl, config.student
    start = start_of(config, folder)
    seed_everything(config.rl_seed)
    renderer = renderer_of(student, start)
    seeds = read_split(folder, "rl")
    if line := too_few_seeds(rl, len(seeds)):
        raise UserError(line)
    pictures_of = pictures_in(folder, student.max_pixels)
    draws, steps = drawn(seeds, rl, config.rl_seed), steps_of(rl, len(seeds))

    def assistant() -> StudentAssistant:
        model = load_student(student, Path(start) if rl.start_from == "sft" else None).model
        sampled = SampledStudent(model, renderer, student, rl.temperature, rl.rollouts, start)
        key = f"rl {config.rl_seed}"
        return StudentAssistant(
            policy_of(sampled), renderer, student, pictures_of, key, rl.max_completion_tokens
        )

    def show(done: int, _: int, failed: int = 0) -> None:
        if progress:
            progress(done, len(draws) + steps, failed)

    records = play_seeds(config, draws, assistant, tutor, folder / "rl", wait, show)
    gc.collect()
    pairs = [pair for one in records for pair in pairs_of(one)]
    if say:
        say(
            f"rl: DPO instead of GRPO: {len(pairs):,} pairs of {counts(records)['turns']:,} turns, each with"
            f" {rl.group_size} answers; the other turns' answers have equal rewards"
        )
    checkpoint, place = gone_back(folder / "rl"), folder / "rl" / SIZE
    size = pairs_a_step(rl, len(pairs), steps)
    if checkpoint and place.exists():  # rl.micro_batch_size may be another now
        size = int(place.read_text())
    write_atomic(place, f"{size}\n")
    collator = PairCollator(pairs, renderer, pictures_of)
    checks: dict[int, dict[str, Any]] = {}
    """The guard's numbers, by the 0-based step."""

    def row_of(step: int, logs: dict[str, Any]) -> dict[str, Any]:
        row = {"step": step, "loss": logs["loss"]} | {name: logs.get(of) for name, of in METRICS.items()}
        return row | ({"checks": checks.pop(step - 1)} if step - 1 in checks else {})

    steps_done = Milestones(lambda done, _: show(len(draws) + done, 0))
    log = StepLog(folder / "rl" / "metrics.jsonl", row_of)
    trainer = _trainer(config, folder, start, collator, size, [steps_done, log])
    pictures, known_of = partial(shown_in, pictures_of), collator.collated.known
    Guard("rl", student, renderer, given_to_dpo, known_of, pictures, checks.__setitem__).watch(trainer)
    train(trainer, checkpoint, student)
    save_trained(trainer, renderer.processor, out, student, start)
    return out


def _trainer(
    config: Config,
    folder: Path,
    start: str,
    collator: PairCollator,
    size: int,
    callbacks: list[TrainerCallback],
) -> GuardedDPO:
    """TRL's trainer over the collator's pairs in steps of `size`, from the weights at `start`."""
    student, pairs = config.student, collator.pairs
    trainer = GuardedDPO(
        **beginning(student, start, empty_model(load_model_config(base_of(student, start)))),
        args=DPOConfig(
            **dpo_arguments(config, folder, size),
            **loading(student, start),
        ),
        data_collator=collator,
        # The column `images` tells TRL that there are pictures, and that the collator renders.
        train_dataset=Dataset.from_dict({"row": list(range(len(pairs))), "images": [[] for _ in pairs]}),
        processing_class=collator.renderer.processor,
        callbacks=callbacks,
    )
    if student.freeze_vision:
        freeze_vision(trainer.model)
    hold_modes(trainer.model)
    trainer.lengths = [text_length(_spoken(pair, pair.chosen)) for pair in pairs]
    return trainer
