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
        kept = self.dialogues.get(one.id)
        if kept is None:
            return one
        places = one.turns[: len(kept.turns)] if kept.stop is StopReason.SUCCESS else one.turns
        return one.model_copy(update={"turns": places, "meta": without(kept.meta, "error", "taken_back")})

    async def speak(self, dialogue: Dialogue, template: Turn) -> Reply:
        """Raises `NotKept` where the attacker gave up, or the dialogue was not played on."""
        kept, turn = self._turn(dialogue, len(dialogue.taken_back))
        if turn is None:
            if kept and kept.stop in (StopReason.ASSISTANT_FAILED, StopReason.CONTEXT_FULL):
                return Reply(template.user)  # what was asked there is not in the row
            raise NotKept(kept)
        return Reply(turn.user, without(turn.meta, *OF_JUDGE, "taken_back"), turn.images)

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        """Raises `ContextFull` or `NotKept` where the dialogue ended in that way."""
        kept, turn = self._turn(dialogue, len(asked.taken_back))
        if turn is None:
            if kept and kept.stop is StopReason.CONTEXT_FULL:
                raise ContextFull
            raise NotKept(kept)
        return Reply(turn.assistant or "")

    async def takes_back(self, dialogue: Dialogue) -> bool:
        """Whether the attacker took that turn back. Raises `NotKept` if that is unknown, since the dialogue
        ended at that turn: the attacker failed, or the judge did."""
        kept, place = self.dialogues[dialogue.id], len(dialogue.turns) - 1
        before = len(dialogue.turns[place].taken_back)
        if before < len(_taken_back(kept, place)):
            return True
        ended = self._turn(dialogue, 0)[1] is None
        if ended and kept.stop in (StopReason.USER_FAILED, StopReason.UNSCORED):
            raise NotKept(kept)
        return False

    def _turn(self, dialogue: Dialogue, before: int) -> tuple[Dialogue | None, Turn | None]:
        """The kept dialogue, and its turn in the next place after so many were taken back there; None if it
        ended before."""
        kept, place = self.dialogues.get(dialogue.id), len(dialogue.turns)
        turns = [*_taken_back(kept, place), *kept.turns[place : place + 1]] if kept else []
        return kept, turns[before] if before < len(turns) else None


def _taken_back(kept: Dialogue, place: int) -> list[Turn]:
    return (kept if place == len(kept.turns) else kept.turns[place]).taken_back
