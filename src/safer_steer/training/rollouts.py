"""One step's rollouts: all its trajectories side by side, journalled, and counted.

`Rollouts` is the `rollout_func` of TRL's GRPO trainer. A step repeated after a kill goes on from its journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import GRPOTrainer

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Seed, StopReason, to_jsonl
from safer_steer.episode import Critic, User
from safer_steer.errors import UserError
from safer_steer.files.store import Journal, read_rows
from safer_steer.student import processes
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.given import Trained
from safer_steer.student.sharding import generating
from safer_steer.training.draws import refuse_another_seed, steps_in_pass
from safer_steer.training.due import trained_by_ids
from safer_steer.training.first_turn import refuse_other_pictures
from safer_steer.training.patience import RECENT_STEPS, LastVerdicts, patience_of, refuse_unscored
from safer_steer.training.returns import step_metrics, turn_returns
from safer_steer.training.silence import refuse_silence
from safer_steer.training.trajectory import Return, Trajectory, as_trajectory, roll_out
from safer_steer.training.tutor_memory import TutorMemory, tries_in
from safer_steer.workers import Breaker, reasons_in

Wait = Callable[[Coroutine[Any, Any, list[Trajectory]]], list[Trajectory]]
"""Runs a coroutine to completion."""


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

    def of_others(self, step: int, process: int, ids: Container[str]) -> dict[str, dict[str, Any]]:
        """The rows with these ids that a launch of another number of processes left in other journals of the
        step."""
        paths = sorted(self.folder.glob(f"{step:05d}-*.jsonl"))
        others = [path for path in paths if path.stem != f"{step:05d}-{process:03d}"]
        return {row["id"]: row for path in others for row in read_rows(path) if row["id"] in ids}

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
    assistant_of: Callable[[Any, int], StudentAssistant]
    """Makes the assistant from the model under training, with its weights at this step."""
    tutor: Critic
    value: Return
    folder: Path
    """The run's `rl` folder."""
    wait: Wait = asyncio.run
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
        seeds = [
            self._as_trajectory(self.seeds[prompt[-1]["seed_id"]], step, first + i)
            for i, prompt in enumerate(prompts)
        ]

        with generating(trainer, here=self.config.rl.rollouts.engine != "vllm") as model:
            assistant = self.assistant_of(model, step)

            def play() -> list[Trajectory]:
                with self.journals.open(step, process) as journal:
                    for row in self.journals.of_others(step, process, {seed.id for seed in seeds}).values():
                        if row["id"] not in journal:
                            journal.append(row)
                    return self.wait(self._play(seeds, assistant, journal))

            played = processes.agreed(play)
        everyone = [trajectory for share in played for trajectory in share]
        self._note(step, everyone)
        trajectories = played[process]
        self._trained = trained_by_ids(self.config, everyone, slice(first, first + len(prompts)))
        return {
            "prompt_ids": [trajectory.prompt_ids for trajectory in trajectories],
            "completion_ids": [trajectory.completion_ids for trajectory in trajectories],
            "logprobs": [trajectory.logprobs for trajectory in trajectories],
            "env_mask": [trajectory.mask for trajectory in trajectories],
            "trajectory_return": [trajectory.value for trajectory in trajectories],
            **self._credit(trajectories),
        }

    def _as_trajectory(self, seed: Seed, step: int, place: int) -> Seed:
        """The trajectory of this seed at this place of a step (0-based, over all processes)."""
        rl = self.config.rl
        passes = step // steps_in_pass(rl, len(self.seeds))
        number = passes * rl.group_size + place % rl.group_size
        return as_trajectory(seed, f"{step:05d}-{place:04d}", number)

    def _credit(self, trajectories: list[Trajectory]) -> dict[str, list[Any]]:
        """What `TurnCreditTrainer` is given of each trajectory; nothing where credit is the trajectory's."""
        if self.config.rl.credit == "trajectory":
            return {}
        rl, format = self.config.rl, self.config.student.format
        returns = [
            None if trajectory.value is None else turn_returns(trajectory.dialogue, rl, format)
            for trajectory in trajectories
        ]
        return {
            "returns_to_go": returns,
            "answer_ends": [trajectory.ends for trajectory in trajectories],
        }

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
                known = Trajectory.from_row(journal.rows[seed.id])
                refuse_another_seed(journal.path, known.dialogue, seed)
                return known
            turns = self.config.rl.max_turns
            with tutor.playing(seed.id):
                played = await roll_out(seed, self.user, assistant, tutor, self.value, turns)
            refuse_other_pictures(played.dialogue, seed)
            if played.final:
                journal.append(played.to_row())
            return played

        few = int(self.config.rl.max_unscored * len(seeds))
        tutor = LastVerdicts(self.tutor, patience_of(self.config), few)
        async with tutor.watching():
            return await asyncio.gather(*map(one, seeds))

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
        found = step_metrics(dialogues, [trajectory.value for trajectory in trajectories])
        if all(trajectory.value is None for trajectory in trajectories):
            raise UserError(
                f"rl: no trajectory of step {step + 1} could be scored ({_why(dialogues)});"
                " fix that, then run the same command to go on"
            )
        why, again = f" ({_why(dialogues)})", "run the same command to go on"
        refuse_unscored(self.recent, found["unscored"], found["trajectories"], why, again)
        if self.memory:
            found["approaches"] = tries_in(dialogues)
            self.memory.learn(found["approaches"])
        self.metrics[step] = found

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
