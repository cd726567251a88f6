"""Stops a training that is not what it is taken for: `checks.py` has the list.

At every step, what the loss is given is compared with what was rendered, sampled and scored (`given.py`), and
the weights must get a gradient and move (`weights.py`). At the first step and every `student.check_every`
steps, the dialogues of one forward pass are looked at (`looking.py`): whether the student sees what is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState

from safer_steer.config import Student
from safer_steer.errors import UserError
from safer_steer.student import processes
from safer_steer.student.checks import CREDIT, fault, summary
from safer_steer.student.findings import Finding, Step, Weights
from safer_steer.student.given import Given, KnownOf, Reader, compared
from safer_steer.student.looking import Fed, ShownIn, looked_at
from safer_steer.student.renderer import Renderer
from safer_steer.student.sharding import let_go
from safer_steer.student.weights import Witnesses, merged, with_moves


class Guarded:
    """A trainer of TRL's that shows its guard what its loss is given. Comes before the trainer's class."""

    guard: Guard | None = None

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        if self.guard:
            self.guard.see(inputs)
        return super().compute_loss(model, inputs, *args, **options)  # type: ignore[misc]


class Guard(TrainerCallback):
    """Checks each step before the weights change, and once more after. All processes check the same steps and
    decide on the numbers of all."""

    def __init__(
        self,
        stage: str,
        student: Student,
        renderer: Renderer,
        given_to: Reader,
        known_of: KnownOf,
        shown_in: ShownIn,
        note: Callable[[int, dict[str, Any]], None],
        distrust: Callable[[int], None] = lambda step: None,
    ) -> None:
        """
        Args:
            stage: `sft` or `rl`, for messages.
            given_to: reads what the trainer's loss is given.
            note: called in the first process with a step that was looked at (0-based) and its numbers
                (`summary`).
            distrust: called there if a check fails that casts doubt on what was sampled, with the step after:
                what was sampled before it must not be trained on.
        """
        self.stage, self.every, self.number_type = stage, student.check_every, student.dtype
        self.renderer, self.given_to = renderer, given_to
        self.known_of, self.shown_in = known_of, shown_in
        self.note, self.distrust = note, distrust
        self.first: int | None = None
        """The step at which this process began."""
        self._rows: list[Given] | None = None
        self._begin(0)

    def _begin(self, step: int) -> None:
        self._number = step
        self._looks = step == self.first or step % max(1, self.every) == 0
        self._fed: Fed | None = None
        self._findings: list[Finding] = []
        self._taught: dict[int, torch.Tensor] = {}
        """What rows of the same ids teach, together, by the hash of the ids."""
        self._weights: list[Weights] = []

    def watch(self, trainer: Any) -> None:
        """Watch a trainer of TRL's that is `Guarded`."""
        self.model: Any = trainer.model
        self.temperature = getattr(trainer, "temperature", 1.0)
        if self.every:
            trainer.guard = self
            trainer.add_callback(self)
            self.model.register_forward_hook(self._keep, with_kwargs=True)

    def see(self, inputs: dict[str, Any]) -> None:
        """What the loss of a micro-batch is given."""
        if torch.is_grad_enabled():
            self._rows = self.given_to(inputs)
            for row in self._rows:
                key, teaches = hash(tuple(row.ids)), row.teaches()
                earlier = self._taught.get(key)
                self._taught[key] = teaches if earlier is None else earlier + teaches

    def _keep(self, _: Any, __: Any, inputs: dict[str, Any], output: Any) -> None:
        """The forward pass of the loss, and neither one of a rollout nor of the KL's reference."""
        if self._rows is None or not torch.is_grad_enabled():
            return
        rows, self._rows = self._rows, None
        logprobs = output.log_probs.detach().float().cpu()
        attention, ids = inputs["attention_mask"].cpu().bool(), inputs["input_ids"].cpu()
        findings, candidates = [], []
        for number, row in enumerate(rows):
            places = attention[number].nonzero()[:, 0]
            same = self.known_of(row.ids) if ids[number][places].tolist() == row.ids else []
            candidates.append(same)
            findings.append(compared(row, logprobs[number][places[1:] - 1], same))
        if self._looks and self._fed is None:
            compared_with = self.temperature if self._number == self.first else None
            self._fed = Fed(inputs, findings, candidates, logprobs, compared_with)
        else:
            self._findings += findings

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.first = state.global_step if self.first is None else self.first
        self._begin(state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Raises `UserError` if a check fails."""
        shares = processes.agreed(self._measured)
        let_go(self.model)
        self._findings = [finding for findings, _ in shares for finding in findings]
        self._weights = merged([weights for _, weights in shares])
        self._judge(self._step(state.global_step), state.global_step)

    def _measured(self) -> tuple[list[Finding], list[Weights]]:
        looked, fed = [], self._fed
        if fed is not None:
            looked = looked_at(self.model, fed, self.renderer, self.shown_in)
        self._fed = None
        self._witnesses = Witnesses(self.model)
        # Rows of the same ids and opposite advantages have no gradient together.
        due = any(bool((taught.abs() > CREDIT).any()) for taught in self._taught.values())
        return [*looked, *self._findings], self._witnesses.gradients(due)

    def on_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Raises `UserError` if the weights did not move."""
        rate = max(group["lr"] for group in kwargs["optimizer"].param_groups)
        moves = processes.agreed(lambda: self._witnesses.moved(rate))
        self._weights = with_moves(self._weights, moves)
        step = self._step(state.global_step, rate)
        self._judge(step, state.global_step, after=True)
        if step.looked and processes.first():
            self.note(state.global_step, summary(step))

    def _step(self, number: int, learning_rate: float = 0.0) -> Step:
        return Step(self._findings, self._weights, self.number_type, number == self.first, learning_rate)

    def _judge(self, step: Step, number: int, after: bool = False) -> None:
        if failed := fault(step, after):
            check, why = failed
            if check.rollouts and processes.first():
                self.distrust(number + 1)
            raise UserError(
                f"{self.stage}: step {number + 1}: {why}; student.check_every: 0 leaves the checks out"
            )
