"""What a training step is judged on: the numbers of its dialogues and of its weights, and what a check is.

No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True)
class Finding:
    """The numbers of one dialogue in one forward pass. Those of the first group are of every step."""

    dialogue: str
    """Its id; empty if the ids belong to no known dialogue."""
    tokens: int = 0
    """Tokens that the loss is taken over."""
    labels: int = 0
    """Labels that are not the ids at their places."""
    outside: int = 0
    """Tokens with loss that are no answer's."""
    left_out: int = 0
    """Tokens of an answer without loss."""
    credit: float | None = None
    """What the loss weighs the answers with, where it is furthest from `due`; None where all count alike."""
    due: float | None = None
    """What it has to."""
    scale: float = 1.0
    """The step's largest return."""
    paired: bool = True
    """DPO: whether it is compared with the other answer of its pair."""
    sampled: int = 0
    """Tokens with a log-probability of the engine."""
    gap: float | None = None
    """Mean difference between trainer and engine on these, in nats; None without an engine."""
    gap_max: float | None = None
    mode_gap: float | None = None
    """Mean difference between the trainer's log-probabilities in training mode and in evaluation mode, in
    nats; None where nothing is trained."""
    head_gap: float | None = None
    """Mean difference between the trainer's log-probabilities and those of the model's own forward pass, both
    in evaluation mode; None where it was not computed."""

    looked: bool = False
    """Whether the following was measured, too."""
    pictures: int = 0
    picture_tokens: int = 0
    """Picture tokens in the ids."""
    reached: int | None = None
    """Positions that get a picture's features; None if the model does not let this be seen."""
    pixel_gap: float | None = None
    """Largest difference between the picture inputs and those of its pictures; None without any."""
    blank_shift: float | None = None
    """Mean shift of the trained tokens' log-probabilities when the pictures are blanked, in nats; None
    without pictures."""
    rerendered: bool | None = None
    """Whether the chat template renders these ids; None if it cannot be said, because an answer is empty."""

    @property
    def credit_off(self) -> float:
        """Difference of the credit from the one due, as a share of the step's largest return."""
        if self.credit is None or self.due is None:
            return 0.0
        return abs(self.credit - self.due) / self.scale


@dataclass(frozen=True)
class Weights:
    """Weights of one kind that are to be trained: the language model's, or LoRA's A or B."""

    kind: str
    gradient: float
    """The largest entry of the gradient that was seen; not finite if one is not."""
    due: bool
    """Whether the loss gives them one."""
    frozen: bool = False
    moved: float | None = None
    """How far the step moved those watched, at most; None if it could not be seen."""


@dataclass(frozen=True)
class Step:
    """What is known of a step, in all processes."""

    dialogues: Sequence[Finding]
    weights: Sequence[Weights] = ()
    number_type: str = "float32"
    begins: bool = True
    """Whether this process has not trained before it."""
    learning_rate: float = 0.0

    @property
    def looked(self) -> list[Finding]:
        """The dialogues of one forward pass in each process, if the step is looked at."""
        return [finding for finding in self.dialogues if finding.looked]

    @property
    def features(self) -> int | None:
        """Positions that get a picture's features; None if a model does not let this be seen."""
        reached = [finding.reached for finding in self.looked if finding.reached is not None]
        return sum(reached) if len(reached) == len(self.looked) else None

    @property
    def logprob_gap(self) -> float | None:
        """Mean difference between trainer and engine over the step's sampled tokens, in nats; None without an
        engine. Trajectories from the journal are left out: the weights that sampled them may be gone."""
        gaps = [(finding.gap, finding.sampled) for finding in self.dialogues if finding.gap is not None]
        tokens = sum(sampled for _, sampled in gaps)
        return sum(gap * sampled for gap, sampled in gaps) / tokens if tokens else None


class Number(NamedTuple):
    """What a check notes of a step."""

    key: str
    """In `checks` of rl/metrics.jsonl."""
    of: Callable[[Step], Any]
    heading: str = ""
    """Its column in the report, if it has one."""
    how: Literal["sum", "max", "ends"] = "sum"
    """How the report puts the steps' numbers together."""


@dataclass(frozen=True)
class Check:
    """A check by name, what it compares, and its message."""

    name: str
    passes: str
    """What it compares, for docs/explanation/checks.md: passes if ..."""
    complaint: Callable[[Step], str | None]
    """What is wrong, its numbers, the usual cause and what to do; None if nothing is."""
    every_step: bool = True
    """Else at the steps of `student.check_every`."""
    after: bool = False
    """Whether it needs the optimiser's step."""
    rollouts: bool = True
    """Whether a fault casts doubt on what was sampled."""
    numbers: list[Number] = field(default_factory=list)


def total(name: str) -> Callable[[Step], int]:
    """The sum of a number of the dialogues."""
    return lambda step: sum(getattr(finding, name) for finding in step.dialogues)


def most(name: str, of: Literal["dialogues", "looked", "weights"]) -> Callable[[Step], float | None]:
    """The largest of a number; None if it is known of none."""
    return lambda step: max(_values(step, name, of), default=None)


def mean(name: str) -> Callable[[Step], float | None]:
    """The mean of a number of the dialogues looked at; None if it is known of none."""
    return lambda step: fmean(values) if (values := _values(step, name, "looked")) else None


def _values(step: Step, name: str, of: str) -> list[float]:
    values = [getattr(each, name) for each in getattr(step, of)]
    return [value for value in values if value is not None]
