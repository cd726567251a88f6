"""A tutor of your own for Stage III: the shipped tutor, but a leak ends the trajectory.

In the config, with this folder in PYTHONPATH:    rl: {tutor: "own_tutor:EndAtLeak"}
"""

from collections.abc import Callable
from pathlib import Path

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, StopReason
from safer_steer.endpoints.chat import ChatModel
from safer_steer.episode import Verdict
from safer_steer.files.images import pictures_in
from safer_steer.rewards import LEAK
from safer_steer.training.tutor import TutorCritic


class EndAtLeak:
    """A critic (see episode.py): it scores each turn, and may write the next one or end the dialogue."""

    immediate = True
    """The dialogue waits for each verdict."""

    def __init__(self, config: Config, folder: Path, ask: Callable[[str], ChatModel]) -> None:
        """`ask` gives the model of a role; pictures are found in `folder`, the run's."""
        student = config.student
        pictures_of = pictures_in(folder, student.max_pixels)
        self.tutor = TutorCritic(ask("tutor"), student.format, pictures_of, config.rl.feedback_dynamics)

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        verdict = await self.tutor.judge(dialogue, turn, template)
        if verdict.scores["safety"] <= LEAK:
            verdict.stop = StopReason.SUCCESS
        return verdict
