"""How many scripts each stage draws from pools of a given size: what the stages do with rows, done with
numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from safer_steer.assembly.draw import rl_numbers
from safer_steer.assembly.questions import question_numbers
from safer_steer.assembly.splits import sizes
from safer_steer.config import Config


@dataclass
class Group:
    """Benign or other scripts, so many of each, made from the sources: those for training alone."""

    scripts: float = 0
    rule_1: float = 0
    """That keep rule 1 of assembly."""
    able: float = 0
    """That STEER-RL may have: benign ones that keep rule 1, others that keep rule 2."""


Groups = dict[bool, Group]
"""Benign scripts (True) and the others (False)."""
Numbers = dict[bool, float]


def scripts_drawn(config: Config, groups: Groups) -> tuple[Numbers, Numbers]:
    """Scripts that Stage II plays, and that Stage III trains on."""
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
    """The share (0-1) of the pairs that STEER-RL has: it takes them one by one until it has its scripts of
    each kind. STEER-SFT has nothing of those."""
    return min(
        1.0, max((rl[benign] / group.able for benign, group in groups.items() if group.able), default=0.0)
    )


def questions_drawn(config: Config, asked: Groups, used: float) -> Numbers:
    """Questions that Stage III trains on with `rl.single_turn`: of the pairs in STEER-RL (`used`, their
    share), or of all where nothing is assembled."""
    share = used if config.assembly else 1.0
    safe, risky = (int(asked[benign].scripts * share) for benign in (True, False))
    drawn = question_numbers(safe, risky, config.rl.seeds, config.rl.benign_share)
    return dict(zip((True, False), map(float, drawn), strict=True))


def chance_of_a_pair(chances: Sequence[float], used: float) -> float:
    """That Stage II plays some script of a pair: `chances` are its scripts' own, `used` the share of pairs
    that it has nothing of."""
    left = 1 - used
    return left * (1 - prod(1 - min(1.0, chance / left) for chance in chances)) if left else 0.0


def _capped(numbers: Numbers, most: int | None) -> Numbers:
    total = sum(numbers.values())
    share = min(1.0, most / total) if most and total else 1.0
    return {benign: number * share for benign, number in numbers.items()}


def trajectories(config: Config, drawn: Numbers) -> float:
    """Of all steps: one epoch of whole steps, unless `rl.steps` says otherwise. 0 where the scripts do not
    fill one step."""
    rl = config.rl
    steps = int(sum(drawn.values()) // rl.prompts_per_step)
    if not steps:
        return 0
    return (rl.steps if rl.steps > 0 else steps) * rl.prompts_per_step * rl.group_size
