"""An RL run in a process of its own, for tests that kill it: every call of the tutor is a line in `calls`.

python rl_run.py FOLDER CALLS [KEY=VALUE...]    # keys of the config's `rl`
"""

from __future__ import annotations

import sys
from pathlib import Path

from safer_steer.dialogue import Dialogue, Format
from safer_steer.episode import Verdict
from safer_steer.files.images import pictures_in
from safer_steer.training.grpo import reinforce
from safer_steer.training.tutor import TutorCritic
from safer_steer.training.tutor_memory import TutorMemory, memory_of
from student_parts import ask, drawn_for_rl, tiny_config

STEPS = 2


class Counting:
    """The sandbox's tutor; every call is counted."""

    immediate = True

    def __init__(self, folder: Path, calls: Path, memory: TutorMemory | None) -> None:
        pictures_of = pictures_in(folder, 100_000)
        self.tutor = TutorCritic(ask("tutor"), Format.THINKING_ANSWER, pictures_of, memory=memory)
        self.calls, self.memory = calls, memory

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        with self.calls.open("a") as file:
            file.write(f"{dialogue.id} {turn}\n")
        return await self.tutor.judge(dialogue, turn, template)


def main(folder: Path, calls: Path, *changes: str) -> None:
    rl = tiny_config().rl.model_dump() | {"steps": STEPS, "save_steps": STEPS}
    config = tiny_config(rl=rl | dict(change.split("=") for change in changes))
    drawn_for_rl(config, folder)
    reinforce(config, folder, Counting(folder, calls, memory_of(config)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
