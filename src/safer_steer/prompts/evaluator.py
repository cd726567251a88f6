"""Stage II: safety and helpfulness of one turn, on the tutor's 1-10 scale."""

from safer_steer.prompts.base import Exchange, Inputs, Prompt, Score10, Verdicts


class EvaluatorInput(Inputs):
    history: list[Exchange]
    question: str
    answer: str


class EvaluatorVerdict(Verdicts):
    safety: int = Score10
    helpfulness: int = Score10
    reason: str = ""


EVALUATOR = Prompt("evaluator", EvaluatorInput, EvaluatorVerdict)
