"""Whom a side meets: the other side as it is now, its earlier checkpoints, and for the student the tutor's
rules. Which one a step meets follows from config and step alone, so a run that goes on meets the same."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from safer_steer.config.rl import Reinforce
from safer_steer.errors import UserError
from safer_steer.files.store import whole_folder
from safer_steer.student.adapters import CONFIG, WEIGHTS

Side = Literal["attacker", "student"]
SIDES: tuple[Side, Side] = ("attacker", "student")
RULES = "rules"
"""The opponent that is no checkpoint: the tutor, which writes the attacks."""


def crossplay_of(run: Path, blank: bool) -> Path:
    """Folder of the dialogues of a run's cross-play; what they show is beside it, with `.json`."""
    return run / "rl" / ("crossplay-blank" if blank else "crossplay")


class Block(NamedTuple):
    """Steps of one side without the other's turn."""

    side: Side
    until: int
    """Steps of this side that are done after it."""
    other: int
    """Steps of the other side that are done before it."""

    def begin(self, rl: Reinforce) -> int:
        """Steps of this side that are done before it."""
        return (self.until - 1) // rl.cotrain.every * rl.cotrain.every


def learning(rl: Reinforce) -> list[Side]:
    """The sides that learn."""
    return [side for side in SIDES if rl.cotrain.learns in ("both", side)]


def other_side(side: Side) -> Side:
    return "student" if side == "attacker" else "attacker"


def blocks(rl: Reinforce, steps: int) -> Iterator[Block]:
    """The blocks of a run in which each side that learns makes so many steps."""
    done = dict.fromkeys(SIDES, 0)
    while done[learning(rl)[-1]] < steps:
        for side in learning(rl):
            done[side] = min(steps, done[side] + rl.cotrain.every)
            yield Block(side, done[side], done[other_side(side)])


def opponent(rl: Reinforce, block: Block, step: int, seed: int) -> str:
    """Whom a step (0-based) of a block meets: `RULES`, or a checkpoint's number of steps, as text."""
    cotrain, now = rl.cotrain, str(block.other)
    others = [str(step) for step in range(0, block.other, cotrain.every)]
    if block.side == "student" and cotrain.rules:
        others.append(RULES)
    rng = random.Random(f"opponent {seed} {block.side} {step}")
    return now if not others or rng.random() < cotrain.latest else rng.choice(others)


class Pool:
    """The checkpoints' adapters: `rl/pool/<side>/<steps>`."""

    def __init__(self, folder: Path, starts: dict[Side, Path | None]) -> None:
        """`starts`: the adapter that a side begins with, which is its checkpoint of 0 steps; None for the
        base."""
        self.folder, self.starts = folder, starts

    def path(self, side: Side, steps: int) -> Path | None:
        """Folder of an adapter; None if it is the base."""
        return self.folder / side / f"{steps:05d}" if steps else self.starts[side]

    def steps(self, side: Side) -> list[int]:
        """The checkpoints of a side that are there, with that of 0 steps."""
        return [0, *sorted(int(path.name) for path in (self.folder / side).glob("*") if path.name.isdigit())]

    def anchor(self) -> Path:
        """Some adapter, to make a PEFT model of the base with. Raises `UserError` if there is none."""
        paths = [self.path(side, steps) for side in SIDES for steps in self.steps(side)]
        for path in filter(None, paths):
            return path
        raise UserError(f"{self.folder}: no adapters; run `safer-steer rl` with rl.algorithm: cotrain first")

    def has(self, block: Block) -> bool:
        """Whether a block's end was kept."""
        path = self.path(block.side, block.until)
        return path is not None and path.exists()

    def add(self, block: Block, checkpoint: Path) -> None:
        """Keep the adapter of the checkpoint at a block's end."""
        path = self.path(block.side, block.until)
        assert path
        with whole_folder(path) as part:
            for name in (CONFIG, WEIGHTS):
                shutil.copy(checkpoint / name, part / name)
