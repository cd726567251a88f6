"""Tutor-in-the-loop GRPO with TRL's trainer. The dialogue loop is its `rollout_func`.

This module provides whole dialogues as trajectories, an env mask that trains only sampled assistant tokens,
the tutor's rewards, and the exclusion of unscored trajectories from the baseline. TRL provides the loss, KL,
optimiser, checkpoints and distribution.
Unlike the published code, every turn is scored, including the last; see docs/explanation/method.md.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig

from safer_steer.config import Config
from safer_steer.data.assembly.splits import read_split
from safer_steer.dialogue import Seed
from safer_steer.episode import Critic
from safer_steer.errors import UserError
from safer_steer.files.images import PicturesOf, pictures_in
from safer_steer.files.store import inside, read_rows
from safer_steer.student import processes
from safer_steer.student.adapters import base_of
from safer_steer.student.assistant import StudentAssistant, shown_in
from safer_steer.student.given import given_to_grpo
from safer_steer.student.guard import Guard
from safer_steer.student.load import empty_model, load_model_config, renderer_of
from safer_steer.student.modules import freeze_vision, hold_modes
from safer_steer.student.policy import Policy, PolicyOf, SampledStudent
from safer_steer.student.renderer import Renderer
from safer_steer.student.sharding import generating, sharding_arguments, with_mixed_precision
from safer_steer.student.training import (
    Milestones,
    batching,
    beginning,
    common_arguments,
    loading,
    save_trained,
    seed_everything,
    start_of,
    train,
)
from safer_steer.student.transformers_policy import in_process
from safer_steer.training.audit import Audit
from safer_steer.training.draws import in_steps, too_few_seeds
from safer_steer.training.refusals import (
    refuse_later_pictures,
    refuse_lost_inputs,
    refuse_mixed_pictures,
)
from safer_steer.training.returns import noted_return
from safer_steer.training.rollouts import Rollouts, Wait
from safer_steer.training.trainers import (
    AtCheckpoints,
    Checkpoints,
    MeasuredTrainer,
    StepLog,
    TurnCreditTrainer,
    gone_back,
)
from safer_steer.training.trajectory import Return
from safer_steer.training.tutor_memory import Remembering


def grpo_arguments(config: Config, home: Path) -> dict[str, Any]:
    """TRL's arguments for this config, as plain values; checkpoints go to the folder `home`."""
    rl = config.rl
    importance = {}
    if rl.rollouts.importance_cap is not None:
        # TRL names them after vLLM; `MeasuredTrainer` lets them hold for any engine.
        importance = {
            "vllm_importance_sampling_mode": "token_truncate",
            "vllm_importance_sampling_clip_max": rl.rollouts.importance_cap,
        }
    return {
        **common_arguments(config, home, rl.save_steps, config.rl_seed),
        "learning_rate": rl.learning_rate,
        "num_generations": rl.group_size,
        **batching(rl.prompts_per_step * rl.group_size, rl.micro_batch_size, "rl.micro_batch_size"),
        "num_train_epochs": 1,
        "max_steps": rl.steps,
        "shuffle_dataset": False,  # `in_steps` does; a resumed sampler would begin its first pass again
        "lr_scheduler_type": rl.schedule,
        "weight_decay": rl.weight_decay,
        "beta": rl.beta,
        "loss_type": rl.loss,
        "scale_rewards": "none",
        "temperature": rl.temperature,
        "max_completion_length": rl.max_completion_tokens,
        "use_bias_correction_kl": False,
        **importance,
        "log_multimodal": False,
    }


def reinforce(
    config: Config,
    folder: Path,
    tutor: Critic,
    progress: Callable[[int, int], None] | None = None,
    value: Return | None = None,
    wait: Wait = asyncio.run,
    policy_of: PolicyOf = in_process,
    gates: AtCheckpoints | None = None,
    audit: Audit | None = None,
) -> Path:
    """Train the SFT student (or the base) against the tutor. Resumes from the last complete checkpoint.
    Returns rl/model.

    Args:
        value: the return of a trajectory, or None if it has none; TCSR by default.
        wait: plays a step's trajectories on its own event loop and closes the connections that the tutor
            opened there.
        policy_of: makes the policy that samples from the model under training.
        gates: looks at the training after step 1 and at every checkpoint, and may end it.
        audit: scores turns again after each step (`rl.audit`); by default nobody.
    """
    out, rl, student = folder / "rl" / "model", config.rl, config.student
    if processes.decided(out.exists):
        return out
    start = start_of(config, folder)
    home = folder / "rl"
    checkpoint = processes.decided(partial(gone_back, home))
    seed_everything(config.rl_seed)
    renderer = renderer_of(student, start)
    seeds = read_split(folder, "rl")
    if line := too_few_seeds(rl, len(seeds)):
        raise UserError(line)
    refuse_seeds(renderer, seeds)
    pictures_of = pictures_in(folder, student.max_pixels)

    def sampling(model: Any, step: int, temperature: float) -> Policy:
        return policy_of(
            SampledStudent(model, renderer, student, temperature, rl.rollouts, start, step, folder / "rl")
        )

    def assistant_of(model: Any, step: int) -> StudentAssistant:
        policy, key = sampling(model, step, rl.temperature), f"rl {config.rl_seed}"
        return StudentAssistant(policy, renderer, student, pictures_of, key, rl.max_completion_tokens)

    @contextmanager
    def as_in_bench(step: int) -> Iterator[StudentAssistant]:
        with generating(trainer, here=rl.rollouts.engine != "vllm") as model:
            policy = sampling(model, step, config.bench.temperature)
            yield StudentAssistant(policy, renderer, student, pictures_of, f"probe {config.seed}")

    rollouts = Rollouts(
        config,
        {seed.id: seed for seed in seeds},
        assistant_of,
        tutor,
        value or partial(noted_return, config),
        folder / "rl",
        wait,
        audit,
        tutor.memory if isinstance(tutor, Remembering) else None,
    )
    rollouts.go_on(list(read_rows(folder / "rl" / "metrics.jsonl")))
    prompts = prompts_of(config, renderer, folder, in_steps(seeds, rl, config.rl_seed))
    trainer_class = TurnCreditTrainer if rl.credit == "turn" else MeasuredTrainer
    trainer = trainer_of(config, home, renderer, start, prompts, rollouts, progress, trainer_class)
    watch(trainer, config, renderer, rollouts, pictures_of)
    if gates:
        trainer.add_callback(Checkpoints(gates, as_in_bench))
    train(trainer, checkpoint, student)
    save_trained(trainer, renderer.processor, out, student, start)
    if processes.first():
        shutil.rmtree(folder / "rl" / ".adapters", ignore_errors=True)
        shutil.rmtree(rollouts.journals.folder, ignore_errors=True)
    return out


def refuse_seeds(renderer: Renderer, seeds: list[Seed]) -> None:
    """Raises `UserError` for a student or seeds that TRL would train otherwise than they were played."""
    refuse_later_pictures(seeds)
    refuse_lost_inputs(renderer)
    refuse_mixed_pictures(renderer, seeds)


def watch(
    trainer: MeasuredTrainer, config: Config, renderer: Renderer, rollouts: Rollouts, pictures_of: PicturesOf
) -> None:
    """Set a guard over the trainer."""
    Guard(
        "rl",
        config.student,
        renderer,
        given_to_grpo,
        rollouts.known,
        partial(shown_in, pictures_of),
        rollouts.note_checks,
        rollouts.journals.forget,
    ).watch(trainer)


def trainer_of(
    config: Config,
    home: Path,
    renderer: Renderer,
    start: str,
    prompts: Dataset,
    rollouts: Rollouts,
    progress: Callable[[int, int], None] | None,
    trainer_class: type[MeasuredTrainer],
) -> MeasuredTrainer:
    """TRL's trainer, which plays its steps by `rollouts`, from the weights at `start`. Its checkpoints and
    metrics are in `home`."""
    student = config.student
    empty = empty_model(load_model_config(base_of(student, start)))
    trainer = trainer_class(
        **beginning(student, start, empty),
        args=with_mixed_precision(
            GRPOConfig(
                **grpo_arguments(config, home),
                **sharding_arguments(student, empty),
                **loading(student, start),
            )
        ),
        reward_funcs=_return_of_rollout,
        train_dataset=prompts,
        processing_class=renderer.processor,
        rollout_func=rollouts,
        callbacks=[
            Milestones(progress),
            StepLog(home / "metrics.jsonl", rollouts.row_of, rollouts.journals.forget),
        ],
    )
    if config.rl.rollouts.importance_cap is not None:
        trainer.correct_importance()
    if student.freeze_vision:
        freeze_vision(trainer.model)
    hold_modes(trainer.model)
    return trainer


def _return_of_rollout(
    completions: list[Any], trajectory_return: list[float | None], **_: Any
) -> list[float | None]:
    """TRL's reward function; passes on the return from the rollout. A trajectory with None gets no advantage
    and does not count in the group's mean."""
    return trajectory_return


def prompts_of(config: Config, renderer: Renderer, folder: Path, seeds: list[Seed]) -> Dataset:
    """First user turns and the paths of their pictures in TRL's format, in the order of the seeds; it takes
    pictures in no later turn. `MeasuredTrainer` opens them.

    TRL renders them for the forward pass exactly as `Transcript` does for generation.
    """
    system = (
        [{"role": "system", "content": config.student.system, "seed_id": ""}] if config.student.system else []
    )
    prompts, images = [], []
    for seed in seeds:
        first = {"role": "user", "content": renderer.defused(seed.turns[0].user), "seed_id": seed.id}
        prompts.append([*system, first])
        images.append([str(inside(folder, path)) for path in seed.images_by_turn()[0]])
    return Dataset.from_dict({"prompt": prompts, "images": images})
