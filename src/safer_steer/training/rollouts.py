"""One step's rollouts: all its trajectories side by side, journalled, and counted.

`Rollouts` is the `rollout_func` of TRL's GRPO trainer. A step repeated after a kill goes on from its journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Coroutine, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from trl import GRPOTrainer

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Seed, StopReason, to_jsonl
from safer_steer.episode import Critic, Script
from safer_steer.errors import UserError
from safer_steer.files.store import Journal, read_rows
from safer_steer.rewards import group_advantages
from safer_steer.student import processes
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.given import Trained
from safer_steer.student.sharding import generating
from safer_steer.training.audit import Audit, audit_metrics
from safer_steer.training.credit import turn_advantages
from safer_steer.training.draws import steps_in_pass
from safer_steer.training.patience import LastVerdicts, patience_of
from safer_steer.training.refusals import (
    RECENT_STEPS,
    refuse_another_seed,
    refuse_silence,
    refuse_unscored,
)
from safer_steer.training.returns import step_metrics, turn_returns
from safer_steer.training.trajectory import Return, Trajectory, as_trajectory, roll_out
from safer_steer.training.tutor_memory import TutorMemory, tries_in
from safer_steer.workers import Breaker, reasons_in

Wait = Callable[[Coroutine[Any, Any, list[Trajectory]]], list[Trajectory]]
"""Runs a coroutine to completion."""


DRIFT = ("logprob_gap", "logprob_gap_max", "importance_ratio", "importance_ess")
"""How far the engine's log-probabilities are from the trainer's: what `trainers.MeasuredTrainer` logs."""


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

    def take_over(self, step: int, journal: Journal, ids: Container[str]) -> None:
        """Copy the rows with these ids that a launch of another number of processes left in other journals of
        the step."""
        for path in sorted(self.folder.glob(f"{step:05d}-*.jsonl")):
            for row in read_rows(path) if path != journal.path else ():
                if row["id"] in ids and row["id"] not in journal:
                    journal.append(row)

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
    assistant_of: Callable[[Any, int], StudentAssistant]
    """Makes the assistant from the model under training, with its weights at this step."""
    tutor: Critic
    value: Return
    folder: Path
    """The run's `rl` folder."""
    wait: Wait = asyncio.run
    audit: Audit | None = None
    """Who scores turns of a finished step again."""
    memory: TutorMemory | None = None
    """The tutor's; it learns once a step, so all trajectories of a step meet the same."""
    metrics: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Metrics by step, merged with the trainer's when the step is logged."""
    _trained: dict[tuple[int, ...], list[Trained]] = field(default_factory=dict)
    """This process's trajectories of the current step, by their ids."""

    def __post_init__(self) -> None:
        self.recent = Breaker(RECENT_STEPS, self.config.rl.max_unscored)

    @property
    def journals(self) -> StepJournals:
        return StepJournals(self.folder / "rollouts")

    def __call__(self, prompts: list[list[dict[str, Any]]], trainer: GRPOTrainer) -> dict[str, Any]:
        """Play one step. `prompts` are already repeated K times, in order."""
        step, process = trainer.state.global_step, trainer.accelerator.process_index
        first = process * len(prompts)
        seeds = []
        for place, prompt in enumerate(prompts, first):
            seeds.append(self._as_trajectory(self.seeds[prompt[-1]["seed_id"]], step, place))

        with generating(trainer, here=self.config.rl.rollouts.engine != "vllm") as model:
            assistant = self.assistant_of(model, step)

            def play() -> list[Trajectory]:
                with self.journals.open(step, process) as journal:
                    self.journals.take_over(step, journal, {seed.id for seed in seeds})
                    return self.wait(self._play(seeds, assistant, journal))

            shares = processes.agreed(play)
        everyone = [trajectory for share in shares for trajectory in share]
        self._note(step, everyone)
        trajectories = shares[process]
        own = slice(first, first + len(prompts))
        self._trained = _trained_by_ids(self.config, everyone, own, self.seen)
        fields: dict[str, Any] = {
            "prompt_ids": [trajectory.prompt_ids for trajectory in trajectories],
            "completion_ids": [trajectory.completion_ids for trajectory in trajectories],
            "logprobs": [trajectory.logprobs for trajectory in trajectories],
            "env_mask": [trajectory.mask for trajectory in trajectories],
            "trajectory_return": [trajectory.value for trajectory in trajectories],
        }
        if self.config.rl.credit == "turn":  # for `TurnCreditTrainer`
            values = [trajectory.value for trajectory in trajectories]
            fields["returns_to_go"] = _to_go(self.config, trajectories, values)
            fields["answer_ends"] = [trajectory.ends for trajectory in trajectories]
        return fields

    def _as_trajectory(self, seed: Seed, step: int, place: int) -> Seed:
        """The trajectory of this seed at this place of a step (0-based, over all processes)."""
        rl = self.config.rl
        passes = step // steps_in_pass(rl, len(self.seeds))
        number = passes * rl.group_size + place % rl.group_size
        return as_trajectory(seed, f"{step:05d}-{place:04d}", number)

    def known(self, ids: list[int]) -> list[Trained]:
        """The trajectories of the current step with these ids."""
        return self._trained.get(tuple(ids), [])

    def note_checks(self, step: int, numbers: dict[str, Any]) -> None:
        """Add the guard's numbers to the step's metrics."""
        if step in self.metrics:
            self.metrics[step]["checks"] = numbers

    async def _play(
        self, seeds: list[Seed], assistant: StudentAssistant, journal: Journal
    ) -> list[Trajectory]:
        async def one(seed: Seed) -> Trajectory:
            if seed.id in journal:
                trajectory = Trajectory.from_row(journal.rows[seed.id])
                refuse_another_seed(journal.path, trajectory.dialogue, seed)
                return trajectory
            with tutor.playing(seed.id):
                trajectory = await self._roll_out(seed, assistant, tutor)
                assistant.forget(trajectory.dialogue)  # the step keeps it, and would keep its pictures
            if trajectory.final:
                journal.append(trajectory.to_row())
            return trajectory

        few = int(self.config.rl.max_unscored * len(seeds) * processes.count())  # of all processes
        tutor = LastVerdicts(self.tutor, patience_of(self.config), ceil(few / processes.count()))
        async with tutor.watching():
            trajectories = await asyncio.gather(*map(one, seeds))
        if self.audit:
            await self.audit.score([trajectory.dialogue for trajectory in trajectories])
        return trajectories

    async def _roll_out(self, seed: Seed, assistant: StudentAssistant, tutor: LastVerdicts) -> Trajectory:
        return await roll_out(seed, Script(), assistant, tutor, self.value, self.config.rl.max_turns)

    def seen(self, dialogue: Dialogue) -> Dialogue:
        """The dialogue as the side in training reads and says it."""
        return dialogue

    def _note(self, step: int, trajectories: list[Trajectory]) -> None:
        """Write the step's dialogues, of all processes, to trajectories.jsonl and record its metrics.

        Raises:
            UserError: most answers are empty, no trajectory has a return, or too many trajectories of the
                last steps were unscored.
                When the command is run again, the step replays the unscored ones.
        """
        dialogues = [trajectory.dialogue for trajectory in trajectories]
        if processes.first():
            with (self.folder / "trajectories.jsonl").open("a", encoding="utf-8") as file:
                file.write(to_jsonl(dialogues))
        refuse_silence(dialogues, f"step {step + 1}")
        metrics = step_metrics(dialogues, [trajectory.value for trajectory in trajectories])
        if all(trajectory.value is None for trajectory in trajectories):
            raise UserError(
                f"rl: no trajectory of step {step + 1} could be scored ({_why(dialogues)});"
                " fix that, then run the same command to go on"
            )
        why, again = f" ({_why(dialogues)})", "run the same command to go on"
        refuse_unscored(self.recent, metrics["unscored"], metrics["trajectories"], why, again)
        if self.audit:
            metrics["audit"] = audit_metrics(dialogues)
        if self.memory:
            metrics["approaches"] = tries_in(dialogues)
            self.memory.learn(metrics["approaches"])
        self.metrics[step] = metrics

    def row_of(self, step: int, logs: dict[str, Any]) -> dict[str, Any] | None:
        """The row of rl/metrics.jsonl of a step (from 1) with what the trainer logs of it."""
        metrics = self.metrics.pop(step - 1, None)
        if metrics is None:
            return None
        names = ("loss", "kl", "grad_norm", "learning_rate", "entropy", "step_time", *DRIFT)
        return {"step": step, **metrics, **{name: logs.get(name) for name in names}}

    def go_on(self, steps: list[dict[str, Any]]) -> None:
        """Take back what the steps before taught, from their rows of rl/metrics.jsonl."""
        for row in steps:
            self.recent.note(row["unscored"], row["trajectories"])
            if self.memory:
                self.memory.learn(row["approaches"])


def _why(dialogues: list[Dialogue]) -> str:
    """The commonest recorded reason why a trajectory has no return."""
    full = sum(dialogue.stop is StopReason.CONTEXT_FULL for dialogue in dialogues)
    failed = reasons_in(dialogues)
    if full > failed.total:
        return "out of context; raise rl.max_completion_tokens or lower student.max_turn_tokens"
    return failed.commonest or "no reason was recorded"


def _trained_by_ids(
    config: Config, step: list[Trajectory], own: slice, view: Callable[[Dialogue], Dialogue]
) -> dict[tuple[int, ...], list[Trained]]:
    """This process's trajectories by their ids, with their masks, log-probabilities and advantages: what the
    loss is due to be given of them.

    It is computed from the dialogues as they are written to rl/trajectories.jsonl, and not from what is
    handed to the trainer, so that the guard sees a return that goes to another trajectory on the way.

    Args:
        step: the trajectories of all processes, in order; those of a seed follow one another.
        own: the place of this process's among them.
        view: the dialogue as the side in training reads and says it.
    """
    returns: list[float | None] = [trajectory.dialogue.meta["return"] for trajectory in step]
    scale = max(1.0, *(abs(value) for value in returns if value is not None))
    by_ids: dict[tuple[int, ...], list[Trained]] = {}
    for trajectory, credit in zip(step[own], _credits(config, step, returns)[own], strict=True):
        prompt = len(trajectory.prompt_ids)
        trained = Trained(
            view(trajectory.dialogue),
            [0] * prompt + trajectory.mask,
            None if trajectory.replayed else [0.0] * prompt + trajectory.logprobs,
            credit=[*[0.0] * prompt, *credit] if isinstance(credit, list) else credit,
            scale=scale,
        )
        by_ids.setdefault((*trajectory.prompt_ids, *trajectory.completion_ids), []).append(trained)
    return by_ids


def _credits(
    config: Config, step: list[Trajectory], returns: list[float | None]
) -> Sequence[float | list[float]]:
    """The advantage of each trajectory, or with `rl.credit: turn` of each token of its completion; 0 of one
    that is unscored."""
    size = config.rl.group_size
    groups = [slice(start, start + size) for start in range(0, len(step), size)]
    if config.rl.credit == "trajectory":
        return [own or 0.0 for group in groups for own in group_advantages(returns[group])]
    to_go = _to_go(config, step, returns)
    by_turn = [own for group in groups for own in turn_advantages(to_go[group])]
    return [_spread(own, trajectory) for own, trajectory in zip(by_turn, step, strict=True)]


def _spread(advantages: list[float] | None, trajectory: Trajectory) -> list[float]:
    """Each turn's advantage on the tokens up to its answer's end."""
    spread: list[float] = []
    for value, end in zip(advantages or [0.0] * len(trajectory.ends), trajectory.ends, strict=True):
        spread += [value] * (end + 1 - len(spread))
    return spread + [0.0] * (len(trajectory.completion_ids) - len(spread))


def _to_go(
    config: Config, trajectories: Sequence[Trajectory], returns: Sequence[float | None]
) -> list[list[float] | None]:
    """The return to go of each turn of these trajectories; None for one without a return."""
    to_go = []
    for trajectory, value in zip(trajectories, returns, strict=True):
        scored = value is not None
        to_go.append(turn_returns(trajectory.dialogue, config.rl, config.student.format) if scored else None)
    return to_go
