"""The dialogue loop. Every stage runs this coroutine with its own user, assistant and critic.

| use                      | user                   | assistant        | critic          |
|--------------------------|------------------------|------------------|-----------------|
| Stage I success filter   | the planned script     | a fixed target   | attack judge    |
| Stage II red-blue        | red agent              | blue expert      | evaluator       |
| Stage III rollout        | tutor, or the template | the student      | tutor           |
| benchmark                | the script             | any model        | judge           |
| adaptive benchmark       | an attacker            | any model        | judge           |

The loop does not depend on HTTP, tokens or trainers. A user, assistant or critic that fails raises a
`BoundaryError`, which is recorded as the dialogue's stop reason: a bad rollout is data.

A user may take its last turn back and say something else in its place (`Rewinding`). The assistant then does
not see what was taken back; the row keeps it (`Turn.taken_back`), since it was paid for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol, cast, runtime_checkable

from safer_steer.dialogue import Dialogue, Seed, StopReason, Turn
from safer_steer.errors import BoundaryError
from safer_steer.files.meta import PLAYED_TURN, TurnMeta, without


@dataclass
class Reply:
    """What the assistant or the user said: the text as sampled, and metadata (finish reason, token counts, an
    attacker's faults)."""

    text: str
    meta: TurnMeta = field(default_factory=TurnMeta)
    images: list[str] | None = None
    """The pictures that the user shows with this turn, as paths relative to the run's folder; by default
    those of the script's turn. An assistant shows none."""


@dataclass
class Verdict:
    """The critic's scores for one turn."""

    scores: dict[str, float]
    meta: TurnMeta = field(default_factory=TurnMeta)
    next_user: str | None = None
    """The tutor's next user turn (feedback dynamics); None keeps the template's turn."""
    stop: StopReason | None = None
    """A reason to end the dialogue here, for instance a successful attack."""


class ContextFull(Exception):
    """Raised by the assistant, and by a user that is a policy: the history with the other side's new turn
    leaves no room for an answer."""


class User(Protocol):
    async def speak(self, dialogue: Dialogue, template: Turn) -> Reply:
        """Return the next user turn, given the dialogue so far and the script's turn (`template`)."""
        ...


@runtime_checkable
class Rewinding(Protocol):
    """A user that may take turns back. Its critic, if any, must be immediate."""

    async def speak(self, dialogue: Dialogue, template: Turn) -> Reply: ...

    async def takes_back(self, dialogue: Dialogue) -> bool:
        """Whether the last turn of `dialogue`, which is answered and judged, is to be taken back. `speak` is
        then called for the same template again."""
        ...


class Assistant(Protocol):
    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        """Answer the turn `asked`, which comes after those of `dialogue`. Its pictures are the last of
        `dialogue.images_by_turn(asked)`."""
        ...


class Critic(Protocol):
    immediate: bool
    """True: the loop waits for each verdict (it may stop the dialogue or write the next turn). False: all
    turns are judged concurrently."""

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        """Score turn `turn` (0-based) of `dialogue` without using later turns. `template` is the script's
        next user turn, if any."""
        ...


class Script:
    """A user that follows the script, or the next user turn that the critic wrote, if any."""

    async def speak(self, dialogue: Dialogue, template: Turn) -> Reply:
        adapted = dialogue.turns[-1].next_user if dialogue.turns else None
        return Reply(template.user if adapted is None else adapted)


async def play(
    seed: Seed, user: User, assistant: Assistant, critic: Critic | None, max_turns: int = 10
) -> Dialogue:
    """Play one dialogue on a seed's script and return it with its stop reason. Never raises a
    `BoundaryError`.

    Turns that the user takes back are in `meta["taken_back"]` of the turn that took their place; in that of
    the dialogue, if it ended before there was one.
    """
    dialogue = Dialogue.begin(seed)
    script = seed.turns[:max_turns]
    judging: list[asyncio.Task[None]] = []
    rewinds = user.takes_back if isinstance(user, Rewinding) else None
    if rewinds and critic and not critic.immediate:
        raise ValueError("a user that takes turns back needs an immediate critic: verdicts belong to places")
    try:
        while len(dialogue.turns) < len(script):
            index = len(dialogue.turns)
            template = script[index]
            try:
                line = await user.speak(dialogue, template)
            except BoundaryError as error:
                _fail(dialogue, StopReason.USER_FAILED, error)
                break
            except ContextFull:
                dialogue.stop = StopReason.CONTEXT_FULL
                break
            images = template.images if line.images is None else line.images
            # An earlier dialogue may be the script.
            turn = Turn(user=line.text, images=images, meta=without(template.meta, *PLAYED_TURN) | line.meta)
            if before := dialogue.meta.get("taken_back"):
                turn.meta["taken_back"] = list(before)
            try:
                reply = await assistant.answer(dialogue, turn)
            except BoundaryError as error:
                _fail(dialogue, StopReason.ASSISTANT_FAILED, error)
                break
            except ContextFull:
                dialogue.stop = StopReason.CONTEXT_FULL
                break
            dialogue.meta.pop("taken_back", None)  # the turn in their place has them
            meta = turn.meta | reply.meta
            dialogue.turns.append(Turn(user=turn.user, images=turn.images, assistant=reply.text, meta=meta))
            if critic is not None:
                upcoming = script[index + 1].user if index + 1 < len(script) else None
                verdict = judge_turn(dialogue, index, critic, upcoming)
                if not critic.immediate:
                    judging.append(asyncio.create_task(verdict))
                    continue
                await verdict
                if dialogue.stop:
                    break
            try:
                if rewinds and await rewinds(dialogue):
                    _take_back(dialogue)
            except BoundaryError as error:
                _fail(dialogue, StopReason.USER_FAILED, error)
                break
        await asyncio.gather(*judging)
    finally:  # after a bug or at the spending limit: pay for no further verdicts
        for task in judging:
            task.cancel()
    dialogue.stop = dialogue.stop or StopReason.COMPLETED
    return dialogue


def _take_back(dialogue: Dialogue) -> None:
    turn = dialogue.turns.pop()
    before = turn.meta.pop("taken_back", [])
    dialogue.meta["taken_back"] = [*before, turn.model_dump(mode="json")]


async def judge_turn(dialogue: Dialogue, index: int, critic: Critic, upcoming: str | None = None) -> None:
    """Fill in one turn's scores. They stay None if the critic fails; if the critic is immediate, this also
    ends the dialogue. `upcoming` is the script's next user turn, if any."""
    turn = dialogue.turns[index]
    try:
        verdict = await critic.judge(dialogue, index, upcoming)
    except BoundaryError as error:
        turn.meta["unscored"] = str(error.fault)
        turn.meta |= cast(TurnMeta, error.facts)
        if critic.immediate:
            dialogue.stop = StopReason.UNSCORED
        return
    turn.scores = verdict.scores
    turn.meta |= verdict.meta
    turn.next_user = verdict.next_user
    dialogue.stop = dialogue.stop or verdict.stop


def _fail(dialogue: Dialogue, reason: StopReason, error: BoundaryError) -> None:
    dialogue.stop = reason
    dialogue.meta["error"] = str(error.fault)
