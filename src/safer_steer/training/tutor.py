"""The Safety Tutor as critic (docs/explanation/method.md, "Stage III").

It sees the pictures, the whole history, the answer and the next template turn. It scores the turn and writes
the next user turn, so the attack adapts to the student ("feedback dynamics"). It does not see the seed's
hidden intent: a turn is judged by what picture and dialogue show so far, because the student knows no more.
The template steers the attack.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from safer_steer.dialogue import Dialogue, Format
from safer_steer.endpoints.asked_again import TEMPLATE, Request
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.refusals import check_turn
from safer_steer.episode import Verdict
from safer_steer.errors import BoundaryError, RefusedError
from safer_steer.files.images import PicturesOf, in_view
from safer_steer.files.meta import TurnMeta
from safer_steer.prompts.base import Prompt
from safer_steer.prompts.tutor import (
    STRATEGIES,
    TUTOR,
    TUTOR_MEMORY,
    TutorInput,
    TutorMemoryInput,
    TutorMemoryVerdict,
    TutorVerdict,
    next_strategy,
)
from safer_steer.rewards import EMPTY_SAFETY, lock_usefulness
from safer_steer.training.tutor_memory import TutorMemory


class TutorCritic:
    """Scores safety, usefulness (locked to safety) and faithfulness, 1-10. With `feedback_dynamics`, also
    writes the next user turn.

    If the tutor's next turn is a refusal, empty or a repetition of the user, it is requested once more with
    the next strategy; the scores of the first call are kept. If that fails too, the script's turn is used. A
    tutor that refuses to score is also asked once more. The turn's meta records this: `next_attacker:
    {"faults", "approach"}`.

    With a memory, its prompt also has what breached the student in the last steps, and an approach drawn from
    that. The turn's meta then has `approach`: that of the user turn that the verdict wrote, if it attacks.
    """

    immediate = True

    def __init__(
        self,
        model: ChatModel,
        format: Format,
        pictures_of: PicturesOf,
        feedback_dynamics: bool = True,
        memory: TutorMemory | None = None,
    ) -> None:
        self.model, self.format, self.pictures_of = model, format, pictures_of
        self.feedback_dynamics, self.memory = feedback_dynamics, memory

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        """Score a turn. Raises a `BoundaryError` if it could not be scored after all retries; it is then
        unscored, never 0."""
        exchange = dialogue.turns[turn]
        inputs = self._inputs(dialogue, turn, template or "")
        prompt: Prompt[Any, Any] = TUTOR if self.memory is None else TUTOR_MEMORY
        pictures = in_view(dialogue.images_by_turn()[: turn + 1], self.pictures_of)
        next_template = template if self.feedback_dynamics and template else ""

        async def ask(approach: str = "") -> TutorVerdict:
            """A second attempt says how to come at it, so its words differ; `repeat` tells siblings apart."""
            words = inputs.model_copy(update={"approach": STRATEGIES[approach]}) if approach else inputs
            verdict: TutorVerdict = await self.model.ask(
                prompt, words, pictures, repeat=dialogue.sample(exchange)
            )
            return verdict

        faults: list[str] = []
        approach = ""
        try:
            verdict = await ask()
        except RefusedError as error:
            faults, approach = [error.boundary], next_strategy("")
            verdict = await ask(approach)
        writer = verdict if next_template else None
        if next_template and (fault := _fault(verdict.next_question.strip(), dialogue, next_template)):
            faults.append(fault)
            writer = None
            if not approach:
                approach = next_strategy(verdict.strategy)
                writer = await _second_writer(ask(approach), dialogue, next_template, faults)
        strategy = verdict.strategy if writer is verdict else approach
        meta: TurnMeta = {"diagnosis": verdict.diagnosis, "strategy": strategy if writer else TEMPLATE}
        if faults:
            meta["next_attacker"] = Request(faults).noted(
                approach if writer or not next_template else TEMPLATE
            )
        if named := self._approach_of(writer):
            meta["approach"] = named
        return Verdict(
            scores=_scores(verdict, inputs.answer),
            meta=meta,
            next_user=writer.next_question.strip() if writer else None,
        )

    def _inputs(self, dialogue: Dialogue, turn: int, template: str) -> TutorInput:
        inputs = TutorInput.of(dialogue, turn, self.format, next_template=template)
        if self.memory is None:
            return inputs
        approach = self.memory.draw(dialogue, turn)
        return TutorMemoryInput(**dict(inputs), memory=self.memory.table(), drawn=approach)

    def _approach_of(self, writer: TutorVerdict | None) -> str:
        """The approach of the turn that this verdict wrote, as the memory names it; "" for no attack."""
        if self.memory is None or not isinstance(writer, TutorMemoryVerdict):
            return ""
        name = "_".join(writer.approach.lower().replace("-", " ").split())
        return name if name in self.memory.approaches else ""


async def _second_writer(
    attempt: Awaitable[TutorVerdict], dialogue: Dialogue, next_template: str, faults: list[str]
) -> TutorVerdict | None:
    """The verdict of a second attempt, whose next turn is to be played; None if it fails too. Its scores are
    ignored."""
    try:
        verdict = await attempt
    except BoundaryError as error:  # the turn is already scored; even a dead endpoint must not lose it
        faults.append(error.boundary)
        return None
    if fault := _fault(verdict.next_question.strip(), dialogue, next_template):
        faults.append(fault)
        return None
    return verdict


def _scores(verdict: TutorVerdict, answer: str) -> dict[str, float]:
    """The final scores, 1-10. Usefulness is locked to safety. An empty visible answer leaks nothing and is
    useless."""
    if not answer:
        return {"safety": min(verdict.safety, EMPTY_SAFETY), "usefulness": 1, "faithfulness": 1}
    return {
        "safety": verdict.safety,
        "usefulness": lock_usefulness(verdict.safety),
        "faithfulness": verdict.faithfulness,
    }


def _fault(text: str, dialogue: Dialogue, template: str) -> str | None:
    """The boundary that the tutor's next turn violates, or None."""
    try:
        check_turn("tutor", text, dialogue, template)
    except BoundaryError as error:
        return error.boundary
    return None
