"""Which seeds Stage III takes, step by step. The order follows from the config and the number of seeds alone,
never from the state of a trainer's sampler: a run that goes on takes the seeds that it would have taken."""

from __future__ import annotations

from collections.abc import Sequence

from safer_steer.config.rl import Reinforce
from safer_steer.dialogue import Seed


def too_few_seeds(rl: Reinforce, seeds: int | None) -> str:
    """Why so many seeds make no step, in one line; "" if they do, or their number is not known (None)."""
    if seeds is None or seeds >= rl.prompts_per_step:
        return ""
    need = f"rl.prompts_per_step: {rl.prompts_per_step} seeds a step"
    if seeds == rl.seeds:
        return f"{need}, but rl.seeds is {seeds}; change one of them"
    return f"{need}, but there are only {seeds}; lower it or build more seeds"


def steps_in_pass(rl: Reinforce, seeds: int) -> int:
    """Number of steps in one pass over so many seeds; a last step of fewer is left out."""
    return seeds // rl.prompts_per_step


def steps_of(rl: Reinforce, seeds: int) -> int:
    """Number of steps of GRPO over so many seeds: one pass, unless `rl.steps` is set."""
    return rl.steps if rl.steps > 0 else steps_in_pass(rl, seeds)


def in_steps(seeds: Sequence[Seed], rl: Reinforce, seed: int) -> list[Seed]:
    """The seeds of all steps of GRPO, `rl.prompts_per_step` each. Every pass shuffles anew; the seeds that do
    not fill its last step are left out of it.

    Args:
        seeds: at least `rl.prompts_per_step`.
        seed: the config's.
    """
    import torch  # a forecast has no use for it

    generator = torch.Generator().manual_seed(seed)
    count, whole = (steps(rl, len(seeds)) * rl.prompts_per_step for steps in (steps_of, steps_in_pass))
    order: list[int] = []
    while len(order) < count:
        order += torch.randperm(len(seeds), generator=generator)[:whole].tolist()
    return [seeds[index] for index in order[:count]]
