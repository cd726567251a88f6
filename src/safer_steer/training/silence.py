"""Stops RL on a student whose answers end at once: nothing would be learnt, and every check would pass."""

from __future__ import annotations

from collections.abc import Iterable

from safer_steer.dialogue import Dialogue
from safer_steer.errors import UserError

MOST = 0.5
"""Largest share of answers that may be empty or end by a marker. A student that answers ends one in thousands
so; one that opens its reasoning with a special token, nearly all."""


def refuse_silence(dialogues: Iterable[Dialogue], when: str) -> None:
    """Raises `UserError` if more of the student's answers than `MOST` are empty, or end by a special token
    that is not the end of a turn. `when` is the step or round, for the message."""
    answers = [turn for dialogue in dialogues for turn in dialogue.turns if turn.assistant is not None]
    empty = sum(not (turn.assistant or "").strip() for turn in answers)
    cut = sum(
        turn.meta.get("finish") == "marker" and bool((turn.assistant or "").strip()) for turn in answers
    )
    if empty + cut > MOST * len(answers):
        raise UserError(
            f"rl: {when}: of {len(answers)} answers {empty} are empty and {cut} break off at a special token"
            " that does not end a turn, so next to nothing would be learnt: the student opens its reasoning,"
            " or a call of a tool, with such a token; give a template that closes an empty reasoning before"
            " the answer in student.chat_template: FILE, or choose another student.model"
        )
