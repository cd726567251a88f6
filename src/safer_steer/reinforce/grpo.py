"""Tutor-in-the-loop GRPO with TRL's trainer: our dialogue loop is its `rollout_func`.

What is ours: whole dialogues as trajectories, an env mask that trains sampled assistant tokens alone, the tutor's
rewards, unscored trajectories out of the baseline. What is TRL's: the loss, KL, optimiser, checkpoints, distribution.
What differs from the published code: every turn is scored, also the last; see docs/method.md.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, List
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation

from safer_steer.assembly.splits import read_split
from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Format, Kind, Seed
from safer_steer.episode import Critic, Script, play
from safer_steer.errors import UserError
from safer_steer.models.images import Picture, pictures_in
from safer_steer.models.policy import Sampling, TransformersPolicy
from safer_steer.models.student import StudentAssistant, base_path, load_processor, open_images, seed_everything
from safer_steer.models.training import Milestones, batching, common_arguments, freeze_vision, last_checkpoint, lora, save_model, train, training_dtype
from safer_steer.models.transcript import ChatTokens, Transcript
from safer_steer.prompts.markers import split_markers
from safer_steer.reinforce.returns import step_metrics, trajectory_return
from safer_steer.seeds.pools import read_pools
from safer_steer.store import inside, write_atomic

Return = Callable[[Dialogue], float | None]
Wait = Callable[[Coroutine[Any, Any, list[Dialogue]]], list[Dialogue]]
"""Runs a coroutine to its end."""


def draw_seeds(config: Config, folder: Path) -> list[Seed]:
    """The seeds of the RL run: STEER-RL where the config assembles data sets, else drawn from the pools with the configured share of benign scripts.

    The order is seeded.
    """
    if config.assembly:
        return read_split(folder, "rl")
    pools = read_pools(folder, config.seeds.kinds)
    rng = random.Random(f"rl {config.seed}")
    benign = [seed for seed in pools if seed.kind is Kind.BENIGN]
    risky = [seed for seed in pools if seed.kind is not Kind.BENIGN]
    for pool in (benign, risky):
        rng.shuffle(pool)
    total = config.rl.seeds or len(pools)
    wanted = min(len(benign), round(total * config.rl.benign_share))
    chosen = benign[:wanted] + risky[: total - wanted]
    rng.shuffle(chosen)
    return chosen


@dataclass
class Rollouts:
    """TRL's `rollout_func`: plays a step's trajectories and hands back exact ids, masks and returns."""

    config: Config
    chat: ChatTokens
    seeds: dict[str, Seed]
    tutor: Critic
    pictures_of: Callable[[Dialogue], list[Picture]]
    value: Return
    trajectories: Path
    wait: Wait = asyncio.run
    metrics: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By step; joined with the trainer's own numbers when the step is logged."""

    def __call__(self, prompts: list[list[dict[str, Any]]], trainer: GRPOTrainer) -> dict[str, Any]:
        """`prompts` come already repeated K times, in order."""
        step, first = trainer.state.global_step, trainer.accelerator.process_index * len(prompts)
        seeds = [self.seeds[prompt[-1]["seed_id"]] for prompt in prompts]
        named = [seed.model_copy(update={"id": f"{step:05d}-{first + i:04d}", "meta": {**seed.meta, "seed": seed.id}}) for i, seed in enumerate(seeds)]
        rl, student = self.config.rl, self.config.student
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
            policy = TransformersPolicy(model, Sampling(student.max_turn_tokens, rl.temperature), student.generation_tokens)
            assistant = StudentAssistant(policy, self.chat, student, self.pictures_of, f"rl {self.config.seed}", rl.max_completion_tokens)
            dialogues = self.wait(self._play(named, assistant))
        returns = [self.value(dialogue) for dialogue in dialogues]
        transcripts = [assistant.transcript(d) or self._unanswered(seed, d) for seed, d in zip(named, dialogues, strict=True)]
        self._journal(dialogues, returns)
        if all(value is None for value in returns):
            raise UserError(f"rl: no trajectory of step {step + 1} could be scored ({_why(dialogues)}); mend that and run the same command to go on")
        self.metrics[step] = step_metrics(dialogues, returns)
        return {
            "prompt_ids": [t.prompt_ids for t in transcripts],
            "completion_ids": [t.completion_ids for t in transcripts],
            "logprobs": [t.logprobs[t.first_prompt :] for t in transcripts],
            "env_mask": [t.mask[t.first_prompt :] for t in transcripts],
            "trajectory_return": returns,
        }

    async def _play(self, seeds: list[Seed], assistant: StudentAssistant) -> list[Dialogue]:
        return await asyncio.gather(*(play(seed, Script(), assistant, self.tutor, self.config.rl.max_turns) for seed in seeds))

    def _unanswered(self, seed: Seed, dialogue: Dialogue) -> Transcript:
        """A trajectory in which the student never spoke: its prompt, and an end token that carries no loss."""
        transcript = Transcript(self.chat, self.chat.look(open_images(self.pictures_of(dialogue))))
        transcript.add_user(seed.script[0])
        transcript.add_assistant([], [])
        return transcript

    def _journal(self, dialogues: list[Dialogue], returns: list[float | None]) -> None:
        with self.trajectories.open("a", encoding="utf-8") as file:
            for dialogue, value in zip(dialogues, returns, strict=True):
                dialogue.meta["return"] = value
                file.write(dialogue.model_dump_json() + "\n")


class StepLog(TrainerCallback):
    """Writes rl/metrics.jsonl: one row a step, the rollouts' metrics beside the trainer's."""

    def __init__(self, rollouts: Rollouts, path: Path) -> None:
        self.rollouts, self.path = rollouts, path

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        step = state.global_step
        if logs is None or "loss" not in logs or step - 1 not in self.rollouts.metrics or not state.is_world_process_zero:
            return
        trained = {name: logs.get(name) for name in ("loss", "kl", "grad_norm", "learning_rate", "entropy", "step_time")}
        row = {"step": step, **self.rollouts.metrics.pop(step - 1), **trained}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


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
    """Cut trajectories and metrics of steps that the checkpoint at `step` does not have: they are about to be done again."""
    for name, of in (("trajectories.jsonl", lambda row: int(row["id"][:5]) < step), ("metrics.jsonl", lambda row: row["step"] <= step)):
        path = folder / name
        if path.exists():
            with path.open("rb") as rows:  # by bytes: a kill may tear a character, and text may hold separators that `splitlines` breaks at
                write_atomic(path, b"".join(row for row in rows if row.endswith(b"\n") and of(json.loads(row))))


def reinforce(
    config: Config,
    folder: Path,
    tutor: Critic,
    progress: Callable[[int, int], None] | None = None,
    value: Return | None = None,
    wait: Wait = asyncio.run,
) -> Path:
    """Train the SFT student (or the base) against the tutor; resumes from the last whole checkpoint. Returns rl/model.

    Args:
        value: the return of a trajectory, None for none; TCSR by default.
        wait: plays a step's trajectories on an event loop of its own, and closes the connections the tutor opened there.
    """
    out = folder / "rl" / "model"
    if out.exists():
        return out
    start = str(folder / "sft" / "model") if config.rl.start_from == "sft" else base_path(config.student)
    (folder / "rl").mkdir(parents=True, exist_ok=True)
    checkpoint = last_checkpoint(folder / "rl")
    rollback(folder / "rl", int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
    seed_everything(config.seed)
    chat = ChatTokens(load_processor(start), config.student.system)
    seeds = draw_seeds(config, folder)
    if len(seeds) < config.rl.prompts_per_step:
        raise UserError(f"rl.prompts_per_step: {config.rl.prompts_per_step} seeds a step, but only {len(seeds)} were drawn; lower it or build more seeds")
    pictures_of = pictures_in(folder, config.student.max_pixels)
    rollouts = Rollouts(
        config,
        chat,
        {seed.id: seed for seed in seeds},
        tutor,
        pictures_of,
        value or (lambda dialogue: trajectory_return(dialogue, config.rl, Format(config.student.format))),
        folder / "rl" / "trajectories.jsonl",
        wait,
    )
    trainer = GRPOTrainer(
        model=start,
        args=GRPOConfig(**grpo_arguments(config, folder), model_init_kwargs={"dtype": training_dtype(config.student)}),
        reward_funcs=_return_of_rollout,
        train_dataset=_prompts(config, folder, seeds),
        processing_class=chat.processor,
        rollout_func=rollouts,
        peft_config=lora(config.student),
        callbacks=[Milestones(progress), StepLog(rollouts, folder / "rl" / "metrics.jsonl")],
    )
    if config.student.freeze_vision:
        freeze_vision(trainer.model)
    train(trainer, checkpoint)
    if trainer.is_world_process_zero():
        save_model(trainer.accelerator.unwrap_model(trainer.model), chat.processor, out, config.student)
    return out


def _why(dialogues: list[Dialogue]) -> str:
    """The first reason on record for a trajectory without a return."""
    reasons = [d.meta.get("error") or next((t.meta["unscored"] for t in d.turns if "unscored" in t.meta), str(d.stop)) for d in dialogues]
    return str(reasons[0])


def _return_of_rollout(completions: list[Any], trajectory_return: list[float | None], **_: Any) -> list[float | None]:
    """TRL's reward function: the return is known already. None gets no advantage and is not in the group's mean."""
    return trajectory_return


def _prompts(config: Config, folder: Path, seeds: list[Seed]) -> Dataset:
    """First user turns and pictures, as TRL wants them: it renders them for the forward pass just as `Transcript` does for generation."""
    system = [{"role": "system", "content": config.student.system, "seed_id": ""}] if config.student.system else []
    rows = {
        "prompt": [[*system, {"role": "user", "content": split_markers(seed.script[0]).strip(), "seed_id": seed.id}] for seed in seeds],
        "images": [[str(inside(folder, path)) for path in seed.images] for seed in seeds],
    }
    return Dataset.from_dict(rows).cast_column("images", List(Image()))
