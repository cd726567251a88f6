"""A step or two of SFT with a tiny model of a family: dialogues with pictures, a config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Kind, StopReason, Turn, read_dialogues, to_jsonl
from safer_steer.files.store import write_atomic
from safer_steer.sandbox.world import devices, draw_png
from safer_steer.student.load import load_student
from safer_steer.training.sft import Collator
from student_parts import TINY
from tiny_families import saved


def prepared(family: str, folder: Path, *pictures: int, steps: int = 1, every: int = 1) -> Config:
    """A run of SFT on dialogues of so many pictures each."""
    for number in (1, 2):
        write_atomic(folder / f"images/{number}.png", draw_png(devices()[number], True, number))
    turns = [
        Turn(user="What is it?", assistant="It is a red box."),
        Turn(user="And why? <image>", assistant=" <thinking>It shows.</thinking><answer>No.</answer>\n"),
    ]
    dialogues = [
        Dialogue(
            id=f"d{place}",
            kind=Kind.BENIGN,
            images=[f"images/{number}.png" for number in range(1, count + 1)],
            turns=turns,
            stop=StopReason.COMPLETED,
        )
        for place, count in enumerate(pictures)
    ]
    write_atomic(folder / "bootstrap/kept.jsonl", to_jsonl(dialogues))
    sizes = {"batch_size": 2, "micro_batch_size": 1, "max_steps": steps}
    return Config.model_validate(
        {
            "student": saved(family, folder / "base") | {"check_every": every},
            "bootstrap": {"sft": TINY["bootstrap"]["sft"] | sizes},
        }
    )


def checks(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (folder / "sft/checks.jsonl").read_text().splitlines()]


def loss_of_the_base(config: Config, folder: Path) -> float:
    """The mean loss of the base's own forward pass over all targets of the run's dialogues."""
    base, dialogues = load_student(config.student), read_dialogues(folder / "bootstrap/kept.jsonl")
    with torch.no_grad():
        collator = Collator(dialogues, base.renderer, folder, config)
        batch = collator([{"row": row} for row in range(len(dialogues))])
        logits = base.model(**{name: values for name, values in batch.items() if name != "labels"}).logits
    targets = batch["labels"][:, 1:]
    return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten()))


def losses(folder: Path) -> list[float]:
    """SFT's, by step."""
    return [row["loss"] for row in map(json.loads, (folder / "sft/metrics.jsonl").read_text().splitlines())]
