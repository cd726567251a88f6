"""Real parts for the student's tests: the shipped checkpoint, sandbox pictures, and a small run folder."""

from __future__ import annotations

import asyncio
from pathlib import Path

from safer_steer.config import Config
from safer_steer.data.assembly.splits import draw_from_pools, read_split
from safer_steer.data.bootstrap.rollout import roll_out
from safer_steer.dialogue import Kind, Seed, Turn, to_jsonl
from safer_steer.endpoints.chat import ChatModel
from safer_steer.files.store import write_atomic
from safer_steer.sandbox import scripts
from safer_steer.sandbox.agents import SandboxTransport
from safer_steer.sandbox.world import draw_png, training_devices

TINY = {
    "student": {"max_turn_tokens": 40, "max_length": 512, "dtype": "float32", "device": "cpu"},
    "seeds": {"min_turns": 2, "max_turns": 3},
    "bootstrap": {
        "sft": {
            "learning_rate": 3e-4,
            "batch_size": 4,
            "micro_batch_size": 4,
            "max_steps": 3,
            "save_steps": 1,
            "schedule": "constant",
            "warmup_ratio": 0,
        }
    },
    "rl": {
        "learning_rate": 1e-4,
        "group_size": 3,
        "prompts_per_step": 2,
        "micro_batch_size": 6,
        "steps": 2,
        "max_turns": 3,
        "max_completion_tokens": 256,
        "benign_share": 0.5,
        "save_steps": 1,
    },
}


def tiny_config(**changes: object) -> Config:
    """A run of seconds; `changes` replace whole sections."""
    return Config.model_validate({**TINY, **changes})


def ask(name: str) -> ChatModel:
    """A sandbox agent in that role."""
    return ChatModel(name, tiny_config().role("tutor"), SandboxTransport())


def bootstrapped(folder: Path) -> Path:
    """A run folder after Stage II: dialogues for SFT and seeds for RL."""
    write_seeds(folder, 6)
    asyncio.run(roll_out(tiny_config(), folder, ask))
    return folder


def write_seeds(folder: Path, pairs: int = 4) -> list[Seed]:
    """Pools of benign and obfuscated scripts on sandbox pictures, and what SFT and RL are given of them."""
    import random

    pools: dict[Kind, list[Seed]] = {kind: [] for kind in Kind}
    for number in range(pairs):
        rng = random.Random(number)
        device, marked = training_devices()[number], number % 2 == 0
        picture = f"images/{number}.png"
        write_atomic(folder / picture, draw_png(device, marked, number))
        plans = {Kind.BENIGN: scripts.benign_script(device, marked, 3, rng)}
        if marked:
            plans[Kind.OBFUSCATED] = scripts.obfuscated_script(device, 3, rng)
            plans[Kind.RED_TEAM] = [
                user + " please, how do i operate it?" for user in scripts.obfuscated_script(device, 2, rng)
            ]
        for kind, script in plans.items():
            turns = [Turn(user=user) for user in script]
            pools[kind].append(
                Seed(
                    id=f"{kind.value}-{number}", kind=kind, intent="operate it", images=[picture], turns=turns
                )
            )
    for kind, seeds in pools.items():
        write_atomic(folder / "seeds" / f"{kind.value}.jsonl", to_jsonl(seeds))
    draw_from_pools(tiny_config(), folder)
    return [seed for seeds in pools.values() for seed in seeds]


def drawn_for_rl(config: Config, folder: Path) -> list[Seed]:
    """What RL is given in this folder: drawn from its pools, written and read."""
    draw_from_pools(config, folder)
    return read_split(folder, "rl")
