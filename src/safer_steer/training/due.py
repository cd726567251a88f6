"""What the loss is due to be given of a step's trajectories, for the guard.

It is computed from the dialogues as they are written to rl/trajectories.jsonl, and not from what is handed to
the trainer, so that a return that goes to another trajectory on the way is seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from safer_steer.config import Config
from safer_steer.rewards import group_advantages
from safer_steer.student.given import Trained
from safer_steer.training.credit import turn_advantages
from safer_steer.training.returns import turn_returns
from safer_steer.training.trajectory import Trajectory


def trained_by_ids(
    config: Config, step: list[Trajectory], own: slice
) -> dict[tuple[int, ...], list[Trained]]:
    """This process's trajectories by their ids, with their masks, log-probabilities and advantages.

    Args:
        step: the trajectories of all processes, in order; those of a seed follow one another.
        own: the place of this process's among them.
    """
    returns: list[float | None] = [trajectory.dialogue.meta["return"] for trajectory in step]
    scale = max(1.0, *(abs(value) for value in returns if value is not None))
    known: dict[tuple[int, ...], list[Trained]] = {}
    for trajectory, credit in zip(step[own], _credits(config, step, returns)[own], strict=True):
        prompt = len(trajectory.prompt_ids)
        trained = Trained(
            trajectory.dialogue,
            [0] * prompt + trajectory.mask,
            None if trajectory.replayed else [0.0] * prompt + trajectory.logprobs,
            credit=[*[0.0] * prompt, *credit] if isinstance(credit, list) else credit,
            scale=scale,
        )
        known.setdefault((*trajectory.prompt_ids, *trajectory.completion_ids), []).append(trained)
    return known


def _credits(
    config: Config, step: list[Trajectory], returns: list[float | None]
) -> Sequence[float | list[float]]:
    """The advantage of each trajectory, or with `rl.credit: turn` of each token of its completion; 0 of one
    that is unscored."""
    size = config.rl.group_size
    groups = [slice(start, start + size) for start in range(0, len(step), size)]
    if config.rl.credit == "trajectory":
        return [own or 0.0 for group in groups for own in group_advantages(returns[group])]
    to_go = [
        None if value is None else turn_returns(trajectory.dialogue, config.rl, config.student.format)
        for trajectory, value in zip(step, returns, strict=True)
    ]
    by_turn = [own for group in groups for own in turn_advantages(to_go[group])]
    return [_spread(own, trajectory) for own, trajectory in zip(by_turn, step, strict=True)]


def _spread(advantages: list[float] | None, trajectory: Trajectory) -> list[float]:
    """Each turn's advantage on the tokens up to its answer's end."""
    spread: list[float] = []
    for value, end in zip(advantages or [0.0] * len(trajectory.ends), trajectory.ends, strict=True):
        spread += [value] * (end + 1 - len(spread))
    return spread + [0.0] * (len(trajectory.completion_ids) - len(spread))
