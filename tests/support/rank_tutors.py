"""Tutors that fail in one of several processes, for `rl.tutor`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue
from safer_steer.episode import Critic, Verdict
from safer_steer.errors import BoundaryError, UserError
from safer_steer.files.images import pictures_in
from safer_steer.training.tutor import TutorCritic


class _Sandbox:
    """The sandbox's tutor, which fails in the second step of rank 1."""

    immediate = True
    failure: Exception

    def __init__(self, config: Config, folder: Path, ask: Any) -> None:
        pictures_of = pictures_in(folder, config.student.max_pixels)
        self.tutor: Critic = TutorCritic(ask("tutor"), config.student.format, pictures_of)

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        if os.environ["RANK"] == "1" and dialogue.id.startswith("00001-"):
            raise self.failure
        return await self.tutor.judge(dialogue, turn, template)


class Mistaken(_Sandbox):
    """Rank 1 meets something that the user has to mend."""

    failure = UserError("the tutor of rank 1 has lost its key; set it again")


class Buggy(_Sandbox):
    """Rank 1 meets a bug."""

    failure = ZeroDivisionError("a bug in the tutor of rank 1")


class Hanging(_Sandbox):
    """The last trajectory of rank 1 waits for its verdict."""

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        if dialogue.id == "00000-0005":
            await asyncio.sleep(120)
        return await self.tutor.judge(dialogue, turn, template)


class Silent(_Sandbox):
    """Rank 1 gets no score."""

    failure = BoundaryError("no answer for rank 1")
