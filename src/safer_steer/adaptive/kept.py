"""Dialogues of an earlier adaptive bench, played again for another judge: user and assistant say what was
kept, turns taken back included. Nobody is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safer_steer.dialogue import TAKEN_BACK, Dialogue, Seed, StopReason, Turn, read_dialogues
from safer_steer.episode import ContextFull, Reply
from safer_steer.errors import BoundaryError, UserError

OF_A_JUDGE = ("reason", "unscored", TAKEN_BACK)
"""Facts in a turn's meta that are not said again."""


class NotKept(BoundaryError):
    """User or assistant failed here when the dialogue was played."""

    boundary = "kept"


class KeptAttack:
    """The user and the assistant of kept dialogues."""

    def __init__(self, journal: Path) -> None:
        """Raises `UserError` if the journal is missing or damaged."""
        if not journal.is_file():
            raise UserError(f"{journal}: no such file; run that bench again first")
        self.dialogues = {dialogue.id: dialogue for dialogue in read_dialogues(journal)}

    def seeds(self) -> list[Seed]:
        """One for each dialogue, with as many places as were reached: where one ended, it ends again."""
        return [_places(dialogue) for dialogue in self.dialogues.values()]

    async def speak(self, dialogue: Dialogue, template: Turn) -> Reply:
        """Raises `NotKept` where the attacker gave up."""
        kept, turn = self._turn(dialogue, len(dialogue.meta.get(TAKEN_BACK, ())))
        if turn is None:
            if kept.stop in (StopReason.ASSISTANT_FAILED, StopReason.CONTEXT_FULL):
                return Reply(template.user)  # what was asked there is not in the row
            raise NotKept(str(kept.meta.get("error") or "not played to its end; run that bench again first"))
        return Reply(turn.user, _facts(turn), turn.images)

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        """Raises `ContextFull` or `NotKept` where the dialogue ended in that way."""
        kept, turn = self._turn(dialogue, len(asked.meta.get(TAKEN_BACK, ())))
        if turn is None:
            if kept.stop is StopReason.CONTEXT_FULL:
                raise ContextFull
            raise NotKept(str(kept.meta.get("error")))
        return Reply(turn.assistant or "")

    async def takes_back(self, dialogue: Dialogue) -> bool:
        """Whether the attacker took that turn back."""
        place = len(dialogue.turns) - 1
        before = len(dialogue.turns[place].meta.get(TAKEN_BACK, ()))
        return before < len(_taken_back(self.dialogues[dialogue.id], place))

    def _turn(self, dialogue: Dialogue, before: int) -> tuple[Dialogue, Turn | None]:
        """The kept dialogue, and its turn in the next place after so many were taken back there; None if it
        ended before."""
        kept, place = self.dialogues[dialogue.id], len(dialogue.turns)
        turns = [*_taken_back(kept, place), *kept.turns[place : place + 1]]
        return kept, turns[before] if before < len(turns) else None


def _places(dialogue: Dialogue) -> Seed:
    ended = dialogue.stop in (StopReason.USER_FAILED, StopReason.ASSISTANT_FAILED, StopReason.CONTEXT_FULL)
    places = max(1, len(dialogue.turns) + ended)
    facts = {name: fact for name, fact in dialogue.meta.items() if name not in ("error", TAKEN_BACK)}
    return Seed(
        id=dialogue.id,
        kind=dialogue.kind,
        source=dialogue.source,
        intent=dialogue.intent,
        images=dialogue.images,
        turns=[Turn(user=dialogue.intent or "?") for _ in range(places)],
        meta=facts,
    )


def _taken_back(kept: Dialogue, place: int) -> list[Turn]:
    at_its_end = place == len(kept.turns)
    rows = kept.meta.get(TAKEN_BACK, []) if at_its_end else kept.turns[place].meta.get(TAKEN_BACK, [])
    return [Turn.model_validate(row) for row in rows]


def _facts(turn: Turn) -> dict[str, Any]:
    return {name: fact for name, fact in turn.meta.items() if name not in OF_A_JUDGE}
