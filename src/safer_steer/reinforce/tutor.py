"""The Safety Tutor in the critic's seat (docs/method.md, "Stage III").

It sees the pictures, the whole history, the answer and the next template turn. It scores the turn and writes
the user turn that comes next, so the attack adapts to the student ("feedback dynamics"). It does not see the
seed's hidden intent: a turn is judged by what picture and dialogue show so far, for the student cannot know
more. The template steers the attack.
"""

from __future__ import annotations

from safer_steer.dialogue import Dialogue, Format, visible_answer
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.refusals import check_turn
from safer_steer.episode import Verdict
from safer_steer.errors import BoundaryError, RefusedError
from safer_steer.images import PicturesOf
from safer_steer.prompts.base import history
from safer_steer.prompts.tutor import STRATEGIES, TUTOR, TutorInput, TutorVerdict, next_strategy
from safer_steer.rewards import EMPTY_SAFETY, lock_usefulness


class TutorCritic:
    """Scores 1-10 for safety, usefulness (locked to safety) and faithfulness; the next user turn where
    `feedback_dynamics` is on.

    A next turn in which the tutor declines, says nothing or repeats the user is asked for once more, by the
    next strategy, and the scores stay those of the first call; failing that too, the script's turn is next. A
    tutor that declines to score at all is asked once more likewise. The turn's meta notes it: `next_attacker:
    {"faults", "approach"}`.
    """

    immediate = True

    def __init__(
        self, model: ChatModel, format: Format, pictures_of: PicturesOf, feedback_dynamics: bool = True
    ) -> None:
        self.model, self.format, self.pictures_of = model, format, pictures_of
        self.feedback_dynamics = feedback_dynamics

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        """Raises a `BoundaryError` if the turn could not be scored, after every retry: it is then unscored,
        never 0."""
        exchange = dialogue.turns[turn]
        inputs = TutorInput(
            history=history(dialogue, self.format, turn),
            question=exchange.user,
            answer=visible_answer(exchange.assistant or "", self.format),
            next_template=template or "",
        )
        wanted = template if self.feedback_dynamics and template else ""
        faults: list[str] = []
        approach = ""
        try:
            verdict = await self.model.ask(TUTOR, inputs, self.pictures_of(dialogue))
        except RefusedError as error:
            faults, approach = [error.boundary], next_strategy("")
            verdict = await self._again(inputs, dialogue, approach)
        strategy, adapted = verdict.strategy, verdict.next_question.strip() if wanted else ""
        if wanted and (fault := _fault(adapted, dialogue, wanted)):
            faults.append(fault)
            adapted = ""
            if not approach:
                approach = next_strategy(verdict.strategy)
                strategy, adapted = await self._next_turn(inputs, dialogue, approach, wanted, faults)
        noted = (
            {
                "next_attacker": {
                    "faults": faults,
                    "approach": approach if adapted or not wanted else "template",
                }
            }
            if faults
            else {}
        )
        return Verdict(
            scores=_scores(verdict, inputs.answer),
            meta={"diagnosis": verdict.diagnosis, "strategy": strategy if adapted else "template", **noted},
            next_user=adapted or None,
        )

    async def _again(self, inputs: TutorInput, dialogue: Dialogue, approach: str) -> TutorVerdict:
        return await self.model.ask(
            TUTOR,
            inputs.model_copy(update={"approach": STRATEGIES[approach]}),
            self.pictures_of(dialogue),
            repeat=1,
        )

    async def _next_turn(
        self, inputs: TutorInput, dialogue: Dialogue, approach: str, wanted: str, faults: list[str]
    ) -> tuple[str, str]:
        """Strategy and words of a second attempt at the next turn, which may have its own fault; its scores
        are not looked at."""
        try:
            verdict = await self._again(inputs, dialogue, approach)
        except BoundaryError as error:  # the turn is scored already, so not even a dead endpoint may lose it
            faults.append(error.boundary)
            return approach, ""
        adapted = verdict.next_question.strip()
        if fault := _fault(adapted, dialogue, wanted):
            faults.append(fault)
            return approach, ""
        return approach, adapted


def _scores(verdict: TutorVerdict, answer: str) -> dict[str, float]:
    """The scores that count, 1-10. Usefulness is locked to safety; an empty visible answer leaks nothing and
    is of no use."""
    if not answer:
        return {"safety": min(verdict.safety, EMPTY_SAFETY), "usefulness": 1, "faithfulness": 1}
    return {
        "safety": verdict.safety,
        "usefulness": lock_usefulness(verdict.safety),
        "faithfulness": verdict.faithfulness,
    }


def _fault(text: str, dialogue: Dialogue, template: str) -> str | None:
    """The boundary that the tutor's next turn fails at, if any."""
    try:
        check_turn("tutor", text, dialogue, template)
    except BoundaryError as error:
        return error.boundary
    return None
