"""A run of the baseline DPO in a process of its own, for tests that kill it: every verdict of the tutor is a
line in `calls`.

python dpo_run.py FOLDER CALLS
"""

from __future__ import annotations

import sys
from pathlib import Path

from rl_run import Counting
from safer_steer.config import Config
from safer_steer.training.dpo import prefer
from student_parts import drawn_for_rl, tiny_config

STEPS = 4


def dpo_config(**changes: object) -> Config:
    """Four steps over pairs of eight dialogues, in three passes over three seeds."""
    rl = tiny_config().rl.model_dump() | {"algorithm": "dpo", "steps": STEPS, "save_steps": 1, "seeds": 3}
    return tiny_config(rl=rl | {"group_size": 4, "learning_rate": 3e-4, "temperature": 1.5} | changes)


def main(folder: Path, calls: Path) -> None:
    config = dpo_config()
    drawn_for_rl(config, folder)
    prefer(config, folder, Counting(folder, calls, None))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
