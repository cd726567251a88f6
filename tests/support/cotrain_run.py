"""A run of co-training in a process of its own, for tests that kill it: every call of a judge is a line in
`calls`.

python cotrain_run.py FOLDER CALLS [KEY=VALUE...]    # keys of the config's `rl.cotrain`
"""

from __future__ import annotations

import sys
from pathlib import Path

from rl_run import Counting
from safer_steer.config import Config
from safer_steer.data.assembly.splits import draw_from_pools
from safer_steer.dialogue import Dialogue
from safer_steer.files.images import pictures_in
from safer_steer.training.cotrain.loop import cotrain
from safer_steer.training.cotrain.rollouts import Faithful, checked_by
from safer_steer.training.tutor_memory import memory_of
from student_parts import ask, tiny_config, write_seeds

STEPS = 2


def config_of(**cotrain: object) -> Config:
    """Two steps of each side, one after the other, of two groups of three."""
    changes = {"algorithm": "cotrain", "start_from": "base", "steps": STEPS, "save_steps": 1}
    changes["tutor_memory"] = True
    rl = tiny_config().rl.model_dump() | changes | {"cotrain": {"every": 1} | cotrain}
    student = tiny_config().student.model_dump(mode="json") | {"lora_rank": 4, "check_every": 1}
    return tiny_config(rl=rl, student=student)


def prepared(folder: Path, config: Config) -> Path:
    """A run's folder up to RL."""
    write_seeds(folder, 6)
    draw_from_pools(config, folder)
    return folder


def counted(folder: Path, calls: Path) -> Faithful:
    """The sandbox's check of the attacker's turns; every call is counted."""
    check = checked_by(ask("evaluator"), pictures_in(folder, 100_000))

    async def faithful(dialogue: Dialogue) -> list[bool]:
        with calls.open("a") as file:
            file.write(f"{dialogue.id} checked\n")
        return await check(dialogue)

    return faithful


def main(folder: Path, calls: Path, *changes: str) -> None:
    config = config_of(**dict(change.split("=") for change in changes))
    if not (folder / "splits").exists():
        prepared(folder, config)
    cotrain(config, folder, Counting(folder, calls, memory_of(config)), counted(folder, calls))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
