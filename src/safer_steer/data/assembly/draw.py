"""Draws the scripts for SFT and RL: `splits/sft.jsonl` and `splits/rl.jsonl`, their only input.

With the section `assembly`, the two are disjoint data sets (`build.py`). Without it they are drawn here from
the pools of Stage I, and may share scripts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from safer_steer.config import Config
from safer_steer.data.assembly.single_turns import draw_questions, questions
from safer_steer.data.assembly.splits import FOLDER
from safer_steer.data.seeds.pools import read_pools
from safer_steer.dialogue import Kind, Seed, to_jsonl
from safer_steer.files.store import content_id, write_atomic


def draw_from_pools(config: Config, folder: Path) -> None:
    """Write both files from `folder/seeds`.

    Raises:
        UserError: a pool is missing, all pools are empty, or, with `rl.single_turn`, a seed does not hold its
            question.
    """
    pools = read_pools(folder, config.seeds.kinds)
    rl = questions_for_rl(config, pools) if config.rl.single_turn else _for_rl(config, pools)
    write_atomic(folder / FOLDER / "sft.jsonl", to_jsonl(_for_sft(config, pools)))
    write_atomic(folder / FOLDER / "rl.jsonl", to_jsonl(rl))


def questions_for_rl(config: Config, scripts: Sequence[Seed]) -> list[Seed]:
    """For `rl.single_turn`: the original questions of the scripts' pairs, as scripts of one turn."""
    return draw_questions(questions(scripts), config.rl.seeds, config.rl.benign_share, config.seed)


def rl_numbers(benign: float, risky: float, total: float | None, share: float) -> tuple[float, float]:
    """How many of the available benign and risky scripts RL takes.

    Args:
        total: number of scripts in all; None for all available.
        share: the wanted share of benign scripts, 0-1. If there are too few, risky scripts replace them.
    """
    whole = benign + risky if total is None else total
    wanted = min(benign, round(whole * share))
    return wanted, min(risky, whole - wanted)


def _for_sft(config: Config, pools: Sequence[Seed]) -> list[Seed]:
    """All scripts, or a seeded draw of `bootstrap.dialogues`."""
    if not config.bootstrap.dialogues:
        return list(pools)
    drawn = sorted(pools, key=lambda seed: content_id("bootstrap", config.seed, seed.id))
    return drawn[: config.bootstrap.dialogues]


def _for_rl(config: Config, pools: Sequence[Seed]) -> list[Seed]:
    """`rl.seeds` scripts, `rl.benign_share` of them benign, in a seeded order."""
    rng = random.Random(f"rl {config.seed}")
    benign = [seed for seed in pools if seed.kind is Kind.BENIGN]
    risky = [seed for seed in pools if seed.kind is not Kind.BENIGN]
    for pool in (benign, risky):
        rng.shuffle(pool)
    numbers = rl_numbers(len(benign), len(risky), config.rl.seeds, config.rl.benign_share)
    chosen = benign[: int(numbers[0])] + risky[: int(numbers[1])]
    rng.shuffle(chosen)
    return chosen
