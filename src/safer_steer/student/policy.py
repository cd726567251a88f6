"""The interface of rollout backends: how a student's turn is sampled. Each backend is one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from safer_steer.config import Student
from safer_steer.student.transcript import Transcript


@dataclass
class Completion:
    """One sampled turn."""

    token_ids: list[int]
    """Includes the end token if it was sampled."""
    logprobs: list[float]
    """Log-probability of each token at the sampling temperature, before top-p."""
    text: str
    finish: str
    """`stop`, `length` (cut off), or `marker` (another chat marker was sampled; the turn ends before it)."""


class Policy(Protocol):
    async def reply(self, transcript: Transcript, key: str) -> Completion:
        """Sample the assistant's next turn; the same key, transcript and weights give the same answer."""
        ...


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy. `top_p` 1 keeps the whole distribution, as training needs."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


PolicyOf = Callable[[Any, Student, float], Policy]
"""Makes a rollout backend's policy from a model, the student's settings and a temperature.

RL calls it at every step with the model under training; the policy samples from its current weights.
"""
