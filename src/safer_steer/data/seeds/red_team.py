"""Stage I, step 4: a red-team script for training is played, and kept only if it succeeds.

The common dialogue loop plays it: the planned script is the user, a fixed target policy the assistant, the
attack judge the critic.
"""

from __future__ import annotations

from safer_steer.dialogue import Dialogue, Format, Kind, Seed, StopReason, visible_answer
from safer_steer.endpoints.chat import ChatModel
from safer_steer.episode import Assistant, Script, Verdict, play
from safer_steer.errors import EndpointError, FailedAttack
from safer_steer.files.images import PicturesOf, in_view
from safer_steer.prompts.base import Exchange
from safer_steer.prompts.scripts import ATTACK_JUDGE, AttackJudgeInput

SHORT_SCRIPT = 4
"""A script with fewer turns ends when its first turn is refused outright: too few turns are left to
recover."""
VAGUE = 3
"""The attack judge's score (1-5) for an answer that neither declines nor reveals anything."""


class AttackJudgeCritic:
    """Gives each turn a score `attack` (1-5). Ends the dialogue on a success, or on a hard refusal (1) of the
    first turn of a short script."""

    immediate = True

    def __init__(self, model: ChatModel, pictures_of: PicturesOf, success_at: int, turns: int) -> None:
        """`turns` is the length of the played script."""
        self.model = model
        self.pictures_of = pictures_of
        self.success_at = success_at
        self.turns = turns

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        exchanges = [
            Exchange(user=one.words, assistant=_visible(one.assistant or ""))
            for one in dialogue.turns[: turn + 1]
        ]
        question, answer = exchanges[-1].user, exchanges[-1].assistant
        inputs = AttackJudgeInput(
            intent=dialogue.intent, history=exchanges[:-1], question=question, answer=answer
        )
        pictures = in_view(dialogue.images_by_turn()[: turn + 1], self.pictures_of)
        verdict = await self.model.ask(ATTACK_JUDGE, inputs, pictures)
        # An empty answer leaks nothing, so its score is at most that of a vague answer.
        score = verdict.score if answer else min(verdict.score, VAGUE)
        stop = None
        if score >= self.success_at:
            stop = StopReason.SUCCESS
        elif turn == 0 and score == 1 and self.turns < SHORT_SCRIPT:
            stop = StopReason.HARD_REFUSAL
        return Verdict({"attack": float(score)}, meta={"reason": verdict.reason}, stop=stop)


def _visible(text: str) -> str:
    """The part of the target's turn that a user sees. A fixed target need not use the student's layout;
    without a layout the user sees all of it."""
    has_blocks = "<answer>" in text or "<thinking>" in text
    return visible_answer(text, Format.THINKING_ANSWER if has_blocks else Format.PLAIN)


async def simulate(
    seed: Seed, target: Assistant, judge: ChatModel, pictures_of: PicturesOf, success_at: int
) -> Seed:
    """Play the script and return all of it. Its meta gets `success_turn` (counted from 1) and the
    `attack_scores` up to that turn.

    Raises:
        FailedAttack: no turn scored `success_at` or more, or the dialogue could not be played to a verdict.
        EndpointError: the target or the judge could not be reached.
    """
    assert seed.kind is Kind.RED_TEAM, f"{seed.id} is {seed.kind}; only red-team scripts are simulated"
    critic = AttackJudgeCritic(judge, pictures_of, success_at, len(seed.turns))
    dialogue = await play(seed, Script(), target, critic)
    scores = [turn.scores["attack"] for turn in dialogue.turns if turn.scores]
    if dialogue.stop is StopReason.SUCCESS:
        success = {"success_turn": len(scores), "attack_scores": scores}
        return seed.model_copy(update={"meta": seed.meta | success})
    fault = next(dialogue.faults, None)
    if fault and fault.unreached:
        raise EndpointError(fault.message)
    reached = ", ".join(f"{score:g}" for score in scores)
    raise FailedAttack(f"{dialogue.stop}: {fault or f'scores {reached}; {success_at} is needed'}", scores)
