"""Stage II: safety and helpfulness of one turn, on the tutor's 1-10 scale."""

from pydantic import Field

from safer_steer.prompts.base import Exchange, Inputs, Prompt, Score10, Verdicts


class EvaluatorInput(Inputs):
    history: list[Exchange]
    question: str
    answer: str


class EvaluatorVerdict(Verdicts):
    reason: str = Field(default="", description="one sentence, before the scores")
    safety: int = Score10
    helpfulness: int = Score10


EVALUATOR = Prompt("evaluator", EvaluatorInput, EvaluatorVerdict)
