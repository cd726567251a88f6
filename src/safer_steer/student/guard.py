"""Stops a training whose student is blind, or is trained on other tokens than were rendered and sampled.

At the first step and every `student.check_every` steps, four checks of the dialogues in a forward pass:

1. blank pictures: blanking a dialogue's pictures shifts its trained tokens' log-probabilities;
2. engine: the trainer's log-probabilities are those that came with the rollout;
3. picture tokens: each in the ids gets a picture's features, and nothing else does;
4. ids: the chat template renders the dialogue as the ids that are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from safer_steer import processes
from safer_steer.config import Student
from safer_steer.errors import UserError, shortened
from safer_steer.student.checks import Fed, Finding, KnownOf, ShownIn, measure
from safer_steer.student.renderer import Renderer
from safer_steer.student.sharding import let_go

FLOOR = 1e-5
"""Smallest shift, in nats, that counts as seeing. Both passes have the same shapes, so pictures that do not
reach the answers shift them by exactly 0."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
"""Largest mean difference between trainer and engine over a dialogue, in nats, by number type."""


class Guard(TrainerCallback):
    """Keeps what the trainer feeds to the model in a step's first forward pass, and checks it before the
    weights change. All processes check the same steps and decide on the numbers of all."""

    def __init__(
        self,
        stage: str,
        student: Student,
        renderer: Renderer,
        known_of: KnownOf,
        shown_in: ShownIn,
        note: Callable[[int, dict[str, Any]], None],
        distrust: Callable[[int], None] = lambda step: None,
    ) -> None:
        """
        Args:
            stage: `sft` or `rl`, for messages.
            note: called in the first process with the step (0-based) and its numbers (`summary`).
            distrust: called there if a check fails, with the step after: what was sampled before it must not
                be trained on.
        """
        self.stage, self.every, self.number_type = stage, student.check_every, student.dtype
        self.renderer, self.known_of, self.shown_in = renderer, known_of, shown_in
        self.note, self.distrust = note, distrust
        self.first: int | None = None
        """The step at which this process began."""
        self._waiting = False
        self._fed: Fed | None = None

    def watch(self, model: torch.nn.Module) -> Guard:
        """Watch the forward passes of the model under training. After `mend_trainer_inputs`."""
        self.model = model
        model.register_forward_hook(self._keep, with_kwargs=True)
        return self

    def _keep(self, _: Any, __: Any, inputs: dict[str, Any], output: Any) -> None:
        if self._waiting and torch.is_grad_enabled():  # neither a rollout nor the KL's reference
            self._waiting = False
            self._fed = Fed(inputs, output.log_probs.detach())

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step = state.global_step
        self.first = step if self.first is None else self.first
        self._waiting = self.every > 0 and (step == self.first or step % self.every == 0)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises `UserError` if a check fails."""
        fed, self._fed = self._fed, None
        if fed is None:
            return
        step = state.global_step
        measured = partial(measure, self.model, fed, self.renderer, self.known_of, self.shown_in)
        found = [each for share in processes.agreed(measured) for each in share]
        let_go(self.model)
        if why := fault(found, self.number_type, begins=step == self.first):
            if processes.first():
                self.distrust(step + 1)
            raise UserError(
                f"{self.stage}: step {step + 1}: {why}; student.check_every: 0 leaves the checks out"
            )
        if processes.first():
            self.note(step, summary(found))


def summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """The numbers of all dialogues together, for metrics. None where no dialogue has the number."""
    shifts = [found.blank_shift for found in findings if found.blank_shift is not None]
    reached = [found.reached for found in findings if found.reached is not None]
    gaps = [found for found in findings if found.gap is not None]
    return {
        "dialogues": len(findings),
        "with_pictures": sum(found.pictures > 0 for found in findings),
        "blank_shift": fmean(shifts) if shifts else None,
        "engine_gap": max((found.gap or 0.0 for found in gaps), default=None),
        "engine_gap_max": max((found.gap_max or 0.0 for found in gaps), default=None),
        "picture_tokens": sum(found.picture_tokens for found in findings),
        "picture_features": sum(reached) if len(reached) == len(findings) else None,
        "rendered_again": sum(found.rerendered is True for found in findings),
    }


def fault(findings: Sequence[Finding], number_type: str, begins: bool) -> str | None:
    """Which check failed, its numbers, the usual cause and what to do, in one line; None if none failed.

    Args:
        begins: whether this process has not trained yet.
    """
    for check in (_lost_pictures, _other_ids):
        for found in findings:
            if why := check(found):
                return why
    return _blind(findings, begins) or _other_engine(findings, TOLERANCE[number_type], number_type, begins)


def _lost_pictures(found: Finding) -> str | None:
    name, tokens = shortened(found.dialogue, 60), found.picture_tokens
    if found.pictures and not tokens:
        return (
            f"picture tokens: dialogue {name} has {found.pictures} picture(s), but its ids have no picture"
            " token, so they are lost when it is rendered; give a template that writes pictures in"
            " student.chat_template"
        )
    if found.reached is not None and found.reached != tokens:
        return (
            f"picture tokens: the ids of dialogue {name} have {tokens}, but {found.reached} positions get a"
            " picture's features, so the model is trained without what the dialogue shows; pictures are lost"
            " between renderer and model: install the tested versions (constraints.txt), or choose another"
            " student.model"
        )
    return None


def _other_ids(found: Finding) -> str | None:
    if not found.dialogue:
        return (
            "ids: the trainer feeds ids that belong to no dialogue of this step: it cut them, or encoded them"
            " anew; install the tested versions (constraints.txt)"
        )
    if found.rerendered is False:
        return (
            f"ids: the chat template renders dialogue {shortened(found.dialogue, 60)} otherwise than it is"
            " trained; give a template that keeps every turn as it is in student.chat_template"
        )
    return None


def _blind(findings: Sequence[Finding], begins: bool) -> str | None:
    """Blindness of all dialogues with pictures; a single one may have answers that do not depend on them."""
    shifts = [found.blank_shift for found in findings if found.blank_shift is not None]
    if not shifts or max(shifts) > FLOOR:
        return None
    if begins:
        why = (
            "this model ignores pictures, or its processor makes empty ones; train it to see first, or choose"
            " another student.model"
        )
    else:
        why = "the student has stopped seeing; lower the learning rate and start the stage again"
    return (
        f"blank pictures: blanking them shifts the trained tokens' log-probabilities by {max(shifts):.2g} in"
        f" {len(shifts)} dialogue(s), where seeing makes more than {FLOOR:g}: the pictures reach the"
        f" model, but {why}"
    )


def _other_engine(
    findings: Sequence[Finding], tolerance: float, number_type: str, begins: bool
) -> str | None:
    gaps = [(found.gap, found) for found in findings if found.gap is not None]
    if not gaps:
        return None
    gap, found = max(gaps, key=lambda pair: pair[0])
    if gap <= tolerance:
        return None
    shift = (
        "" if found.blank_shift is None else f"; blanking its pictures shifts them by {found.blank_shift:.2g}"
    )
    if begins and found.pictures:
        why = (
            "the engine gets its pictures at other positions than the trainer, or not at all, or it has other"
            " weights; place their features where the picture tokens stand in the ids"
        )
    elif begins:
        why = "the engine has other weights or another number type; let it load those of this stage"
    else:
        why = "the engine's weights are not those of this step; send it the current weights at every step"
    return (
        f"engine: its log-probabilities of dialogue {shortened(found.dialogue, 60)} differ from the trainer's"
        f" by {gap:.2g} on average (at most {tolerance:g} in {number_type}{shift}): {why}"
    )
