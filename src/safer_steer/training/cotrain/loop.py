"""`rl.algorithm: cotrain`: attacker and student learn in turns, k steps each, by GRPO on one frozen base.

The side in training is PEFT's `default` adapter, its opponent another adapter on the same base, for the
rollouts alone. Each side is a GRPO run of its own, with checkpoints, journal and metrics, that stops after
each block of k steps and goes on from its checkpoint: the student's in rl/, the attacker's in rl/attacker/.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl.trainer.utils import use_adapter

from safer_steer.config import Config
from safer_steer.config.rl import SHIPPED_ATTACKER
from safer_steer.data.assembly.splits import read_split
from safer_steer.dialogue import Seed, Turn
from safer_steer.episode import Critic
from safer_steer.errors import UserError
from safer_steer.files.images import PicturesOf, pictures_in
from safer_steer.files.store import read_rows, whole_folder
from safer_steer.student.adapters import NAME, WEIGHTS, is_adapter
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.load import renderer_of
from safer_steer.student.policy import PolicyOf, SampledStudent
from safer_steer.student.renderer import Renderer
from safer_steer.student.training import last_checkpoint, seed_everything, start_of, steps_in, train
from safer_steer.student.transformers_policy import in_process
from safer_steer.training.cotrain.exchange import SYSTEM, goal_of, shown_first
from safer_steer.training.cotrain.pool import SIDES, Block, Pool, Side, blocks, learning, other_side
from safer_steer.training.cotrain.rollouts import OPPONENT, Faithful, SideRollouts, SideTrainer
from safer_steer.training.cotrain.seat import AdapterPolicy
from safer_steer.training.draws import in_steps, steps_of, too_few_seeds
from safer_steer.training.grpo import prompts_of, refuse_seeds, trainer_of, watch
from safer_steer.training.returns import noted_return
from safer_steer.training.rollouts import Wait
from safer_steer.training.trainers import gone_back
from safer_steer.training.tutor_memory import Remembering


class BeginsWith(TrainerCallback):
    """Begins a block with the weights of an adapter."""

    def __init__(self, adapter: Path) -> None:
        self.adapter = adapter

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        set_peft_model_state_dict(model, load_file(self.adapter / WEIGHTS))


class EndOfBlock(TrainerCallback):
    """Saves a checkpoint and stops after so many steps."""

    def __init__(self, until: int) -> None:
        self.until = until

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self.until:
            control.should_save = control.should_training_stop = True


def cotrain(
    config: Config,
    folder: Path,
    tutor: Critic,
    faithful: Faithful,
    progress: Callable[[int, int], None] | None = None,
    wait: Wait = asyncio.run,
    policy_of: PolicyOf = in_process,
) -> Path:
    """Train both sides, in one process. Resumes where it stopped. Returns rl/model, the student's adapter;
    the attacker's is rl/attacker/model. Raises `UserError` as `grpo.reinforce`, and where a side learns no
    more (`SideRollouts`).

    Args:
        tutor: scores the student's turns, and is one of its opponents.
        faithful: checks the attacker's turns.
        progress: called with steps done and all, of both sides.
    """
    out = folder / "rl" / "model"
    if not out.exists():
        seeds = read_split(folder, "rl")
        if line := too_few_seeds(config.rl, len(seeds)):
            raise UserError(line)
        if config.rl.cotrain.learns == "attacker" and pool_of(config, folder).path("student", 0) is None:
            raise UserError(
                "rl.cotrain.learns: attacker leaves the student as it begins, and that is no adapter; set"
                " rl.start_from: sft, or rl.cotrain.student"
            )
        both = _Both(config, folder, seeds, tutor, faithful, progress, wait, policy_of)
        both.train()
        both.save()
    return out


def begins_with(config: Config, folder: Path, side: Side) -> str:
    """Folder or Hugging Face id of the weights that a side begins with. Raises `UserError` if what is to be
    an adapter is none."""
    cotrain = config.rl.cotrain
    own = cotrain.student if side == "student" or cotrain.shared_weights else cotrain.attacker
    if own and not is_adapter(own):
        raise UserError(f"rl.cotrain.{side}: {own} is no folder of a LoRA adapter; give one, or leave it out")
    if own or side == "student" or cotrain.shared_weights:
        return own or start_of(config, folder)
    return str(SHIPPED_ATTACKER) if config.student.model == "sandbox" else config.student.base


def pool_of(config: Config, folder: Path) -> Pool:
    """The pool of a run. Raises as `begins_with`."""
    starts = {side: Path(begins_with(config, folder, side)) for side in SIDES}
    adapters = {side: path if is_adapter(path) else None for side, path in starts.items()}
    return Pool(folder / "rl" / "pool", adapters)


@dataclass
class _Both:
    """A run of both sides."""

    config: Config
    folder: Path
    seeds: list[Seed]
    tutor: Critic
    faithful: Faithful
    progress: Callable[[int, int], None] | None
    wait: Wait
    policy_of: PolicyOf

    def __post_init__(self) -> None:
        self.seeds = [shown_first(seed) for seed in self.seeds]
        self.steps = steps_of(self.config.rl, len(self.seeds))
        self.pictures_of: PicturesOf = pictures_in(self.folder, self.config.student.max_pixels)
        self.pool = pool_of(self.config, self.folder)

    def home(self, side: Side) -> Path:
        """Folder of a side's checkpoints, journal, metrics and model."""
        return self.folder / "rl" / ("attacker" if side == "attacker" else "")

    def config_of(self, side: Side) -> Config:
        """The config from a side's seat: the attacker has another system message."""
        if side == "student":
            return self.config
        student = self.config.student.model_copy(update={"system": SYSTEM})
        return self.config.model_copy(update={"student": student})

    def renderer(self, side: Side) -> Renderer:
        return renderer_of(self.config_of(side).student)

    def train(self) -> None:
        """All blocks that are not done."""
        for block in blocks(self.config.rl, self.steps):
            if not self.pool.has(block):
                self.pool.add(block, self._block(block))
                gc.collect()

    def save(self) -> None:
        """Each side's last adapter, with its processor, as `model` in its folder; the student's last, since
        the run is done with it."""
        for side in SIDES:
            learns = self.config.rl.cotrain.learns in ("both", side)
            path, out = self.pool.path(side, self.steps if learns else 0), self.home(side) / "model"
            if path is None or out.exists():
                continue
            with whole_folder(out) as part:
                shutil.copytree(path, part, dirs_exist_ok=True)
                self.renderer(side).processor.save_pretrained(part)
                for rest in ("rollouts", ".adapters"):
                    shutil.rmtree(self.home(side) / rest, ignore_errors=True)

    def _block(self, block: Block) -> Path:
        """Train one block; returns the checkpoint at its end."""
        side, home = block.side, self.home(block.side)
        checkpoint = gone_back(home)
        steps = steps_in(checkpoint)
        if checkpoint and steps >= block.until:
            return checkpoint
        config, start = self.config_of(side), begins_with(self.config, self.folder, side)
        seed_everything(config.rl_seed)
        renderer, seeds = self.renderer(side), [_as_read(seed, side) for seed in self.seeds]
        refuse_seeds(renderer, seeds)
        rollouts = self._rollouts(block, start, renderer)
        self._remember(side)
        rollouts.go_on(list(read_rows(home / "metrics.jsonl")))

        def show(done: int, _: int) -> None:
            if self.progress:
                self.progress(done + block.other, self.steps * len(learning(config.rl)))

        prompts = prompts_of(config, renderer, self.folder, in_steps(seeds, config.rl, config.rl_seed))
        trainer = trainer_of(config, home, renderer, start, prompts, rollouts, show, SideTrainer)
        trainer.add_callback(EndOfBlock(block.until))
        if config.rl.cotrain.shared_weights and block.other and steps == block.begin(config.rl):
            shared = self.pool.path(other_side(side), block.other)
            assert shared, "the other side's block has left it"
            trainer.add_callback(BeginsWith(shared))
        watch(trainer, config, renderer, rollouts, self.pictures_of)
        train(trainer, checkpoint, config.student)
        checkpoint = last_checkpoint(home)
        assert checkpoint, "a block ends with a checkpoint"
        return checkpoint

    def _remember(self, side: Side) -> None:
        """Give the tutor's memory back what the student's steps taught it, as after a kill. In a block of the
        student, its rollouts do."""
        memory = self.tutor.memory if isinstance(self.tutor, Remembering) else None
        if memory is None:
            return
        memory.steps.clear()
        for row in read_rows(self.home("student") / "metrics.jsonl") if side == "attacker" else ():
            memory.learn(row["approaches"])

    def _rollouts(self, block: Block, start: str, renderer: Renderer) -> SideRollouts:
        """The rollouts of a block, with both speakers."""
        side, other, config = block.side, other_side(block.side), self.config
        others = self.renderer(other)

        def own(model: Any, step: int) -> StudentAssistant:
            sampled = self._sampled(side, model, renderer, start, step)
            return self._speaker(sampled, NAME, f"rl {config.rl_seed} {side}")

        def opponent(model: Any, step: int, steps: str) -> StudentAssistant:
            path = self.pool.path(other, int(steps))
            if path is not None:
                model.load_adapter(path, OPPONENT, is_trainable=False)
            sampled = self._sampled(other, model, others, str(path or config.student.base))
            return self._speaker(sampled, OPPONENT if path else None, f"rl {config.rl_seed} meets {side}")

        tutor = self.tutor
        return SideRollouts(
            config,
            {seed.id: seed for seed in self.seeds},
            own,
            tutor,
            partial(noted_return, config),
            self.home(side),
            self.wait,
            memory=tutor.memory if side == "student" and isinstance(tutor, Remembering) else None,
            block=block,
            opponents=opponent,
            faithful=self.faithful,
            renderer=renderer,
        )

    def _sampled(
        self, who: Side, model: Any, renderer: Renderer, saved: str, step: int | None = None
    ) -> SampledStudent:
        """What speaks for a side; with `step`, the side in training."""
        rl, settings = self.config.rl, self.config_of(who).student
        return SampledStudent(
            model, renderer, settings, rl.temperature, rl.rollouts, saved, step, self.home(who)
        )

    def _speaker(self, sampled: SampledStudent, adapter: str | None, key: str) -> StudentAssistant:
        """`adapter`: PEFT's name of the one that speaks; None for the base. In this process two policies
        share the model; another engine has the adapters by folder, and is proved on the model."""
        with use_adapter(sampled.model, adapter):
            shared = self.config.rl.rollouts.engine == "transformers"
            policy = AdapterPolicy(sampled, adapter) if shared else self.policy_of(sampled)
        longest = self.config.rl.max_completion_tokens
        return StudentAssistant(policy, sampled.renderer, sampled.settings, self.pictures_of, key, longest)


def _as_read(seed: Seed, side: Side) -> Seed:
    """A seed with what a side reads first: the attacker reads its goal."""
    if side == "student":
        return seed
    _, *later = seed.turns
    return seed.model_copy(update={"turns": [Turn(user=goal_of(seed.intent)), *later]})
