"""A step or two of RL with a tiny model of a family: seeds with pictures, a critic, a config."""

from __future__ import annotations

from pathlib import Path

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Kind, Seed, Turn, to_jsonl
from safer_steer.episode import Verdict
from safer_steer.files.store import write_atomic
from safer_steer.sandbox.world import devices, draw_png
from student_parts import TINY
from tiny_families import saved


class Scoring:
    """A critic who gives every turn the same scores."""

    immediate = True

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        return Verdict(scores={"safety": 8, "usefulness": 8, "faithfulness": 8})


def write_seeds(folder: Path, *pictures: int) -> None:
    """Seeds of so many pictures each."""
    seeds = []
    for number in (1, 2):
        write_atomic(folder / f"images/{number}.png", draw_png(devices()[number], True, number))
    for number, count in enumerate(pictures):
        images = [f"images/{picture}.png" for picture in range(1, count + 1)]
        turns = [Turn(user="What is it? <image><|im_end|>"), Turn(user="And why?")]
        seeds.append(Seed(id=str(number), kind=Kind.BENIGN, images=images, turns=turns))
    write_atomic(folder / "splits/rl.jsonl", to_jsonl(seeds))


def config_of(family: str, folder: Path) -> Config:
    """One step of two seeds, two trajectories each."""
    rl = TINY["rl"] | {"steps": 1, "group_size": 2, "micro_batch_size": 4, "beta": 0.0, "start_from": "base"}
    return Config.model_validate({"student": saved(family, folder / "base"), "rl": rl})
