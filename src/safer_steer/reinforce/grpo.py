"""Tutor-in-the-loop GRPO with TRL's trainer. The dialogue loop is its `rollout_func`.

This module provides whole dialogues as trajectories, an env mask that trains only sampled assistant tokens,
the tutor's rewards, and the exclusion of unscored trajectories from the baseline. TRL provides the loss, KL,
optimiser, checkpoints and distribution.
Unlike the published code, every turn is scored, including the last; see docs/method.md.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, List
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation

from safer_steer.assembly.splits import read_split
from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Seed, StopReason, to_jsonl
from safer_steer.episode import Critic, Script, User
from safer_steer.errors import UserError
from safer_steer.images import PicturesOf, pictures_in
from safer_steer.reasons import reasons_in
from safer_steer.reinforce.returns import note_rewards, step_metrics, trajectory_return, turn_rewards
from safer_steer.reinforce.trajectory import Return, Trajectory, roll_out
from safer_steer.store import Journal, inside, read_rows, write_atomic
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.load import empty_model, load_model_config, renderer_of
from safer_steer.student.modules import freeze_vision
from safer_steer.student.policy import PolicyOf
from safer_steer.student.renderer import Renderer
from safer_steer.student.training import (
    Milestones,
    batching,
    common_arguments,
    last_checkpoint,
    lora,
    mend_trainer_inputs,
    save_model,
    seed_everything,
    train,
    training_dtype,
)
from safer_steer.student.transformers_policy import in_process

Wait = Callable[[Coroutine[Any, Any, list[Trajectory]]], list[Trajectory]]
"""Runs a coroutine to completion."""
RECENT_STEPS = 5
"""Number of recent steps over which `rl.max_unscored` is computed."""


class StepJournals:
    """The trajectories of steps not yet in a checkpoint: `rl/rollouts/<step>-<process>.jsonl`, one row per
    trajectory.

    A step that is repeated after a kill reads its trajectories from here, so none is sampled or scored twice.
    The same seeds alone are not enough: in bfloat16 an answer also depends on its generation batch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, step: int, process: int) -> Journal:
        """Open the journal of a step (0-based) and process. The caller closes it."""
        return Journal(self.folder / f"{step:05d}-{process:03d}.jsonl")

    def forget(self, before: int) -> None:
        """Delete the journals that a checkpoint at step `before` makes unnecessary."""
        for path in self.folder.glob("*.jsonl"):
            if int(path.name[:5]) < before:
                path.unlink()


@dataclass
class Rollouts:
    """TRL's `rollout_func`: plays a step's trajectories and returns exact ids, masks and returns."""

    config: Config
    seeds: dict[str, Seed]
    user: User
    assistant_of: Callable[[Any], StudentAssistant]
    """Makes the assistant from the model under training, with its weights at the current step."""
    tutor: Critic
    value: Return
    folder: Path
    """The run's `rl` folder."""
    wait: Wait = asyncio.run
    metrics: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Metrics by step, merged with the trainer's when the step is logged."""
    recent: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    """For each recent step: the number of unscored trajectories and of all trajectories."""

    @property
    def journals(self) -> StepJournals:
        return StepJournals(self.folder / "rollouts")

    def __call__(self, prompts: list[list[dict[str, Any]]], trainer: GRPOTrainer) -> dict[str, Any]:
        """Play one step. `prompts` are already repeated K times, in order."""
        step, process = trainer.state.global_step, trainer.accelerator.process_index
        first = process * len(prompts)
        seeds = [
            _as_trajectory(self.seeds[prompt[-1]["seed_id"]], step, first + i)
            for i, prompt in enumerate(prompts)
        ]
        unwrapped = unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator)
        with unwrapped as model, self.journals.open(step, process) as journal:
            trajectories = self.wait(self._play(seeds, self.assistant_of(model), journal))
        self._note(step, trajectories)
        return {
            "prompt_ids": [trajectory.prompt_ids for trajectory in trajectories],
            "completion_ids": [trajectory.completion_ids for trajectory in trajectories],
            "logprobs": [trajectory.logprobs for trajectory in trajectories],
            "env_mask": [trajectory.mask for trajectory in trajectories],
            "trajectory_return": [trajectory.value for trajectory in trajectories],
        }

    async def _play(
        self, seeds: list[Seed], assistant: StudentAssistant, journal: Journal
    ) -> list[Trajectory]:
        async def one(seed: Seed) -> Trajectory:
            if seed.id in journal:
                known = Trajectory.from_row(journal.rows[seed.id])
                if known.dialogue.meta["seed"] != seed.meta["seed"]:
                    raise UserError(
                        f"{journal.path}: {seed.id} was played from another seed than this run draws;"
                        " delete the file"
                    )
                return known
            turns = self.config.rl.max_turns
            played = await roll_out(seed, self.user, assistant, self.tutor, self.value, turns)
            if played.final:
                journal.append(played.to_row())
            return played

        return await asyncio.gather(*map(one, seeds))

    def _note(self, step: int, trajectories: list[Trajectory]) -> None:
        """Write the step's dialogues to trajectories.jsonl and record its metrics.

        Raises:
            UserError: no trajectory has a return, or too many trajectories of the last steps were unscored.
                When the command is run again, the step replays the unscored ones.
        """
        dialogues = [trajectory.dialogue for trajectory in trajectories]
        with (self.folder / "trajectories.jsonl").open("a", encoding="utf-8") as file:
            file.write(to_jsonl(dialogues))
        found = step_metrics(dialogues, [trajectory.value for trajectory in trajectories])
        if all(trajectory.value is None for trajectory in trajectories):
            raise UserError(
                f"rl: no trajectory of step {step + 1} could be scored ({_why(dialogues)});"
                " fix that, then run the same command to go on"
            )
        self.recent.append((found["unscored"], found["trajectories"]))
        share = sum(lost for lost, _ in self.recent) / sum(played for _, played in self.recent)
        if share > self.config.rl.max_unscored:
            raise UserError(
                f"rl: {share:.0%} of the trajectories of the last {len(self.recent)} step(s) could not be"
                f" scored ({_why(dialogues)}), more than rl.max_unscored = {self.config.rl.max_unscored:.0%};"
                " fix the tutor, then run the same command to go on"
            )
        self.metrics[step] = found


def _as_trajectory(seed: Seed, step: int, place: int) -> Seed:
    """Copy the seed with the trajectory's id. `place` is the trajectory's index within the step."""
    return seed.model_copy(update={"id": f"{step:05d}-{place:04d}", "meta": {**seed.meta, "seed": seed.id}})


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
        if (
            logs is None
            or "loss" not in logs
            or step - 1 not in self.rollouts.metrics
            or not state.is_world_process_zero
        ):
            return
        trained = {
            name: logs.get(name)
            for name in ("loss", "kl", "grad_norm", "learning_rate", "entropy", "step_time")
        }
        row = {"step": step, **self.rollouts.metrics.pop(step - 1), **trained}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.rollouts.journals.forget(state.global_step)


def grpo_arguments(config: Config, folder: Path) -> dict[str, Any]:
    """TRL's arguments for this config, as plain values."""
    rl = config.rl
    return {
        **common_arguments(config, folder / "rl", rl.save_steps),
        "learning_rate": rl.learning_rate,
        "num_generations": rl.group_size,
        **batching(rl.prompts_per_step * rl.group_size, rl.micro_batch_size, "rl.micro_batch_size"),
        "num_train_epochs": 1,
        "max_steps": rl.steps,
        "lr_scheduler_type": rl.schedule,
        "weight_decay": rl.weight_decay,
        "beta": rl.beta,
        "loss_type": rl.loss,
        "scale_rewards": "none",
        "temperature": rl.temperature,
        "max_completion_length": rl.max_completion_tokens,
        "use_bias_correction_kl": False,
        "log_multimodal": False,
    }


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


def reinforce(
    config: Config,
    folder: Path,
    tutor: Critic,
    progress: Callable[[int, int], None] | None = None,
    value: Return | None = None,
    wait: Wait = asyncio.run,
    policy_of: PolicyOf = in_process,
    user: User | None = None,
) -> Path:
    """Train the SFT student (or the base) against the tutor. Resumes from the last complete checkpoint.
    Returns rl/model.

    Args:
        value: the return of a trajectory, or None if it has none; TCSR by default.
        wait: plays a step's trajectories on its own event loop and closes the connections that the tutor
            opened there.
        policy_of: makes the policy that samples from the model under training.
        user: the user; by default the script, with the tutor's turns where the tutor wrote them. The first
            turn must be the script's, because TRL renders it again for the forward pass.
    """
    out = folder / "rl" / "model"
    if out.exists():
        return out
    start = str(folder / "sft" / "model") if config.rl.start_from == "sft" else config.student.base
    (folder / "rl").mkdir(parents=True, exist_ok=True)
    checkpoint = last_checkpoint(folder / "rl")
    begun = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    rollback(folder / "rl", begun)
    seed_everything(config.seed)
    renderer = renderer_of(config.student, start)
    seeds = read_split(folder, "rl")
    if len(seeds) < config.rl.prompts_per_step:
        raise UserError(
            f"rl.prompts_per_step: {config.rl.prompts_per_step} seeds a step, but there are only"
            f" {len(seeds)}; lower it or build more seeds"
        )
    _refuse_mixed_pictures(renderer, seeds)
    rollouts = Rollouts(
        config,
        {seed.id: seed for seed in seeds},
        user or Script(),
        partial(_assistant_of, config, renderer, policy_of, pictures_in(folder, config.student.max_pixels)),
        tutor,
        value or partial(_return_and_rewards, config),
        folder / "rl",
        wait,
    )
    rollouts.journals.forget(begun)
    rollouts.recent.extend(
        (row["unscored"], row["trajectories"]) for row in read_rows(folder / "rl" / "metrics.jsonl")
    )
    student = config.student
    adapters = lora(student, empty_model(load_model_config(start))) if student.lora_rank else None
    trainer = GRPOTrainer(
        model=start,
        args=GRPOConfig(
            **grpo_arguments(config, folder), model_init_kwargs={"dtype": training_dtype(config.student)}
        ),
        reward_funcs=_return_of_rollout,
        train_dataset=_prompts(config, renderer, folder, seeds),
        processing_class=renderer.processor,
        rollout_func=rollouts,
        peft_config=adapters,
        callbacks=[Milestones(progress), StepLog(rollouts, folder / "rl" / "metrics.jsonl")],
    )
    if config.student.freeze_vision:
        freeze_vision(trainer.model)
    for model in filter(None, (trainer.model, trainer.ref_model)):
        mend_trainer_inputs(model, renderer.picture_inputs)
    train(trainer, checkpoint)
    if trainer.is_world_process_zero():
        save_model(trainer.accelerator.unwrap_model(trainer.model), renderer.processor, out, config.student)
        shutil.rmtree(rollouts.journals.folder, ignore_errors=True)
    return out


def _refuse_mixed_pictures(renderer: Renderer, seeds: list[Seed]) -> None:
    """Refuse seeds that TRL would give another seed's pictures.

    If the pictures of a step are as many as its dialogues, TRL treats inputs of shape [dialogues, pictures,
    ...] as one row per picture. That is wrong if some dialogues have no picture and others have several.

    Raises:
        UserError: the student has such inputs, and the seeds such pictures.
    """
    counts = {len(seed.images) for seed in seeds}
    if renderer.rowwise and 0 in counts and max(counts) > 1:
        raise UserError(
            "rl: with this student, scripts without a picture cannot be mixed with scripts of several"
            " pictures; use sources that give every script a picture, or at most one"
        )


def _assistant_of(
    config: Config,
    renderer: Renderer,
    policy_of: PolicyOf,
    pictures_of: PicturesOf,
    model: Any,
) -> StudentAssistant:
    """Make the assistant from the model under training."""
    policy = policy_of(model, config.student, config.rl.temperature)
    key, longest = f"rl {config.seed}", config.rl.max_completion_tokens
    return StudentAssistant(policy, renderer, config.student, pictures_of, key, longest)


def _why(dialogues: list[Dialogue]) -> str:
    """The commonest recorded reason why a trajectory has no return."""
    full = sum(dialogue.stop is StopReason.CONTEXT_FULL for dialogue in dialogues)
    failed = reasons_in(dialogues)
    if full > failed.total:
        return "out of context; raise rl.max_completion_tokens or lower student.max_turn_tokens"
    return failed.commonest or "no reason was recorded"


def _return_and_rewards(config: Config, dialogue: Dialogue) -> float | None:
    """The TCSR return. Also writes the turn rewards into the dialogue."""
    if rewards := turn_rewards(dialogue, config.rl, config.student.format):
        note_rewards(dialogue, rewards)
    return trajectory_return(dialogue, config.rl, config.student.format)


def _return_of_rollout(
    completions: list[Any], trajectory_return: list[float | None], **_: Any
) -> list[float | None]:
    """TRL's reward function; passes on the return from the rollout. A trajectory with None gets no advantage
    and does not count in the group's mean."""
    return trajectory_return


def _prompts(config: Config, renderer: Renderer, folder: Path, seeds: list[Seed]) -> Dataset:
    """First user turns and pictures in TRL's format; it takes pictures in no later turn.

    TRL renders them for the forward pass exactly as `Transcript` does for generation.
    """
    system = (
        [{"role": "system", "content": config.student.system, "seed_id": ""}] if config.student.system else []
    )
    prompts, images = [], []
    for seed in seeds:
        first = {"role": "user", "content": renderer.defused(seed.script[0]), "seed_id": seed.id}
        prompts.append([*system, first])
        images.append([str(inside(folder, path)) for path in seed.images])
    return Dataset.from_dict({"prompt": prompts, "images": images}).cast_column("images", List(Image()))
