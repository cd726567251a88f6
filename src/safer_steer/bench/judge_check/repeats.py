"""Asks the judge again about answers that it has scored."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from safer_steer.bench.judge_check.played import Place
from safer_steer.bench.judging import JudgeCritic
from safer_steer.bench.watch import Watch, WatchedCritic
from safer_steer.dialogue import Dialogue, Format
from safer_steer.endpoints.chat import ChatModel
from safer_steer.errors import BoundaryError
from safer_steer.files.images import PicturesOf
from safer_steer.workers import Progress

Again = dict[Place, Sequence[dict[str, float] | None]]
"""The scores of every turn of every dialogue; None where the judge gave none."""


async def asked_again(
    judge: ChatModel,
    dialogues: Mapping[Place, Dialogue],
    repeats: int,
    format: Format,
    pictures_of: PicturesOf,
    progress: Progress,
) -> list[Again]:
    """The scores of `repeats` further samples. Replies that are paid for are in the cache, so a second call
    asks only for the rest.

    Raises:
        UserError: the judge failed many times in a row.
    """
    watch = Watch()
    total = repeats * sum(len(dialogue.turns) for dialogue in dialogues.values())
    done = failed = 0
    progress(0, total, 0)

    async def one(critic: WatchedCritic, dialogue: Dialogue, turn: int) -> dict[str, float] | None:
        nonlocal done, failed
        try:
            return (await critic.judge(dialogue, turn, None)).scores
        except BoundaryError:
            failed += 1
            return None
        finally:
            done += 1
            progress(done - failed, total, failed)

    async def whole(critic: WatchedCritic, dialogue: Dialogue) -> list[dict[str, float] | None]:
        return await asyncio.gather(*(one(critic, dialogue, turn) for turn in range(len(dialogue.turns))))

    found: list[Again] = []
    for repeat in range(1, repeats + 1):
        critic = WatchedCritic(
            JudgeCritic(judge, format, pictures_of, repeat), watch, f"the judge {judge.role.model}"
        )
        scores = await asyncio.gather(*(whole(critic, dialogue) for dialogue in dialogues.values()))
        found.append(dict(zip(dialogues, scores, strict=True)))
    return found
