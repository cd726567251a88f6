"""Dialogues of an earlier adaptive bench, played again for another judge: user and assistant say what was
kept, turns taken back included. Nobody is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from safer_steer.bench.adaptive.results import NotKept
from safer_steer.dialogue import Dialogue, Seed, StopReason, Turn
from safer_steer.episode import ContextFull, Reply
from safer_steer.files.meta import OF_JUDGE, without


class KeptAttack:
    """The user and the assistant of kept dialogues."""

    def __init__(self, dialogues: Mapping[str, Dialogue]) -> None:
        """`dialogues` by id."""
        self.dialogues = dialogues

    def seeds(self, tries: Iterable[Seed]) -> list[Seed]:
        """These tries, of which some may not have been played. Where a dialogue ended, it ends again."""
        return [self._as_played(one) for one in tries]

    def _as_played(self, one: Seed) -> Seed:
        record = self.dialogues.get(one.id)
        if record is None:
            return one
        places = one.turns[: len(record.turns)] if record.stop is StopReason.SUCCESS else one.turns
        return one.model_copy(update={"turns": places, "meta": without(record.meta, "error", "taken_back")})

    async def speak(self, dialogue: Dialogue, template: Turn) -> Reply:
        """Raises `NotKept` where the attacker gave up, or the dialogue was not played on."""
        record, turn = self._turn(dialogue, len(dialogue.taken_back))
        if turn is None:
            if record and record.stop in (StopReason.ASSISTANT_FAILED, StopReason.CONTEXT_FULL):
                return Reply(template.user)  # what was asked there is not in the row
            raise NotKept(record)
        return Reply(turn.user, without(turn.meta, *OF_JUDGE, "taken_back"), turn.images)

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        """Raises `ContextFull` or `NotKept` where the dialogue ended in that way."""
        record, turn = self._turn(dialogue, len(asked.taken_back))
        if turn is None:
            if record and record.stop is StopReason.CONTEXT_FULL:
                raise ContextFull
            raise NotKept(record)
        return Reply(turn.assistant or "")

    async def takes_back(self, dialogue: Dialogue) -> bool:
        """Whether the attacker took that turn back. Raises `NotKept` if that is unknown, since the dialogue
        ended at that turn: the attacker failed, or the judge did."""
        record, place = self.dialogues[dialogue.id], len(dialogue.turns) - 1
        before = len(dialogue.turns[place].taken_back)
        if before < len(_taken_back(record, place)):
            return True
        ended = self._turn(dialogue, 0)[1] is None
        if ended and record.stop in (StopReason.USER_FAILED, StopReason.UNSCORED):
            raise NotKept(record)
        return False

    def _turn(self, dialogue: Dialogue, before: int) -> tuple[Dialogue | None, Turn | None]:
        """The kept dialogue, and its turn in the next place after so many were taken back there; None if it
        ended before."""
        record, place = self.dialogues.get(dialogue.id), len(dialogue.turns)
        turns = [*_taken_back(record, place), *record.turns[place : place + 1]] if record else []
        return record, turns[before] if before < len(turns) else None


def _taken_back(record: Dialogue, place: int) -> list[Turn]:
    return (record if place == len(record.turns) else record.turns[place]).taken_back
