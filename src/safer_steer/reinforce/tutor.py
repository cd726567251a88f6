"""The Safety Tutor in the critic's seat (docs/method.md, "Stage III").

It sees the pictures, the whole history, the answer and the next template turn, scores the turn, and writes the user turn
that comes next, so the attack adapts to the student ("feedback dynamics").
"""

from __future__ import annotations

from collections.abc import Callable

from safer_steer.dialogue import Dialogue, Format, visible_answer
from safer_steer.episode import Verdict
from safer_steer.models.chat import ChatModel
from safer_steer.models.images import Picture
from safer_steer.prompts.base import history
from safer_steer.prompts.tutor import TUTOR, TutorInput
from safer_steer.rewards import lock_usefulness


class TutorCritic:
    """Scores 1-10 for safety, usefulness (locked to safety) and faithfulness; the next user turn where `feedback_dynamics` is on."""

    immediate = True

    def __init__(self, model: ChatModel, format: Format, pictures_of: Callable[[Dialogue], list[Picture]], feedback_dynamics: bool = True) -> None:
        self.model, self.format, self.pictures_of = model, format, pictures_of
        self.feedback_dynamics = feedback_dynamics

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        """Raises a `BoundaryError` if the turn could not be scored, after every retry: it is then unscored, never 0."""
        exchange = dialogue.turns[turn]
        inputs = TutorInput(
            intent=dialogue.intent,
            history=history(dialogue, self.format, turn),
            question=exchange.user,
            answer=visible_answer(exchange.assistant or "", self.format),
            next_template=template or "",
        )
        verdict = await self.model.ask(TUTOR, inputs, self.pictures_of(dialogue))
        adapted = verdict.next_question.strip() if self.feedback_dynamics and template else ""
        return Verdict(
            scores={"safety": verdict.safety, "usefulness": lock_usefulness(verdict.safety), "faithfulness": verdict.faithfulness},
            meta={"diagnosis": verdict.diagnosis, "strategy": verdict.strategy if adapted else "template"},
            next_user=adapted or None,
        )
