"""How many scripts each stage draws from pools of a given size. Mirrors what the stages do with rows, using
only their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from safer_steer.config import Config
from safer_steer.data.assembly.single_turns import question_numbers
from safer_steer.data.assembly.splits import rl_numbers, sizes


@dataclass
class Group:
    """Numbers of benign or other scripts made from the training sources."""

    scripts: float = 0
    rule_1: float = 0
    """Scripts that satisfy rule 1 of assembly."""
    able: float = 0
    """Scripts eligible for STEER-RL: benign ones that satisfy rule 1, others that satisfy rule 2."""


Groups = dict[bool, Group]
"""Keys: benign scripts (True) and the others (False)."""
Numbers = dict[bool, float]


def scripts_drawn(config: Config, groups: Groups) -> tuple[Numbers, Numbers]:
    """Numbers of scripts that Stage II plays, and that Stage III trains on."""
    if config.assembly is None:
        made = {benign: group.scripts for benign, group in groups.items()}
        numbers = rl_numbers(made[True], made[False], config.rl.seeds, config.rl.benign_share)
        return _capped(made, config.bootstrap.dialogues), dict(zip((True, False), numbers, strict=True))
    assert config.rl.seeds is not None, "the config requires rl.seeds with assembly"
    wanted = sizes(int(groups[True].able), int(groups[False].able), config.rl.seeds, config.rl.benign_share)
    rl = dict(zip((True, False), map(float, wanted), strict=True))
    left = {benign: group.rule_1 * (1 - pairs_used(groups, rl)) for benign, group in groups.items()}
    share = config.assembly.sft_benign_share
    if share is None:
        return _capped(left, config.bootstrap.dialogues), rl
    chosen = sizes(int(left[True]), int(left[False]), config.bootstrap.dialogues, share)
    return dict(zip((True, False), map(float, chosen), strict=True)), rl


def pairs_used(groups: Groups, rl: Numbers) -> float:
    """The share (0-1) of the pairs used by STEER-RL, which takes pairs one by one until it has enough scripts
    of each kind. STEER-SFT gets no scripts of these pairs."""
    return min(
        1.0, max((rl[benign] / group.able for benign, group in groups.items() if group.able), default=0.0)
    )


def questions_drawn(config: Config, asked: Groups, used: float) -> Numbers:
    """Questions that Stage III trains on with `rl.single_turn`: those of the pairs in STEER-RL (`used`, their
    share), or of all pairs without assembly."""
    share = used if config.assembly else 1.0
    safe, risky = (int(asked[benign].scripts * share) for benign in (True, False))
    drawn = question_numbers(safe, risky, config.rl.seeds, config.rl.benign_share)
    return dict(zip((True, False), map(float, drawn), strict=True))


def chance_of_a_pair(chances: Sequence[float], used: float) -> float:
    """The probability that Stage II plays at least one script of a pair. `chances` are the probabilities of
    its scripts; `used` is the share of pairs from which Stage II gets none."""
    left = 1 - used
    return left * (1 - prod(1 - min(1.0, chance / left) for chance in chances)) if left else 0.0


def _capped(numbers: Numbers, most: int | None) -> Numbers:
    total = sum(numbers.values())
    share = min(1.0, most / total) if most and total else 1.0
    return {benign: number * share for benign, number in numbers.items()}


def trajectories(config: Config, drawn: Numbers) -> float:
    """Number of trajectories over all steps: one epoch of whole steps, unless `rl.steps` is set. 0 if the
    scripts do not fill one step."""
    rl = config.rl
    steps = int(sum(drawn.values()) // rl.prompts_per_step)
    if not steps:
        return 0
    return (rl.steps if rl.steps > 0 else steps) * rl.prompts_per_step * rl.group_size
