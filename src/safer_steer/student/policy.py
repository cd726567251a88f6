"""How a student's turn is sampled: the interface of rollout engines, and their names. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from safer_steer.config import Student
from safer_steer.config.named import load_named
from safer_steer.config.rl import Rollouts
from safer_steer.errors import UserError

if TYPE_CHECKING:
    from safer_steer.student.renderer import Renderer
    from safer_steer.student.transcript import Transcript

ENGINES = {
    "transformers": "safer_steer.student.transformers_policy:in_process",
    "vllm": "safer_steer.student.vllm_policy:on_servers",
}
"""For each engine of `rl.rollouts.engine`, the function that makes its policy (`PolicyOf`)."""


def maker_of(engine: str) -> str:
    """`package.module:name` of the function that makes the policy of `engine`: a key of `ENGINES`, or a
    function of your own, which is returned as it is. Raises `UserError` if it is neither."""
    if engine not in ENGINES and ":" not in engine:
        engines = ", ".join(ENGINES)
        raise UserError(f"rl.rollouts.engine: {engine} is unknown; use {engines}, or package.module:name")
    return ENGINES.get(engine, engine)


@dataclass
class Completion:
    """One sampled turn."""

    token_ids: list[int]
    """Includes the end token if it was sampled."""
    logprobs: list[float]
    """Log-probability of each token at the sampling temperature."""
    text: str
    finish: str
    """`stop`, `length` (cut off), or `marker` (another chat marker was sampled; the turn ends before it)."""


class Policy(Protocol):
    async def reply(self, transcript: Transcript, key: str) -> Completion:
        """Sample the assistant's next turn; the same key, transcript and weights give the same answer."""
        ...


@dataclass(frozen=True)
class Sampling:
    """From the whole distribution, as training needs. Temperature 0 is greedy."""

    max_tokens: int
    temperature: float = 1.0


@dataclass(frozen=True)
class SampledStudent:
    """The student that a policy is to sample from, with its weights as they are now."""

    model: Any
    """Loaded; in RL, the model under training."""
    renderer: Renderer
    settings: Student
    temperature: float
    rollouts: Rollouts
    saved: str
    """Folder or Hugging Face id of the weights that `model` was loaded from."""
    step: int | None = None
    """In RL, the 0-based step: the weights are no longer those at `saved`."""
    folder: Path | None = None
    """In RL, the run's folder `rl`, for what an engine has to write."""


PolicyOf = Callable[[SampledStudent], Policy]


def engine_of(rollouts: Rollouts) -> PolicyOf:
    """What makes the policy that samples a loaded student's turns (`rl.rollouts.engine`). Raises `UserError`
    as `maker_of` and `load_named` do."""
    policy_of: PolicyOf = load_named("rl.rollouts.engine", maker_of(rollouts.engine))
    return policy_of


"""Makes an engine's policy. RL calls it at every step, outside any event loop."""


def seed_of(key: str) -> int:
    """The seed of the answer with this key."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:15], 16)


def cut_at_its_end(sampled: Sequence[int], logprobs: Sequence[float], renderer: Renderer) -> Completion:
    """Sampled tokens cut at the end of their turn."""
    stops = set(renderer.stops)
    end = next((place for place, token in enumerate(sampled) if token in stops), None)
    if end is None:
        ids, finish = list(sampled), "length"
    elif sampled[end] == renderer.end:
        ids, finish = list(sampled[: end + 1]), "stop"
    else:
        ids, finish = list(sampled[:end]), "marker"
    return Completion(ids, list(logprobs[: len(ids)]), renderer.decode(ids), finish)
