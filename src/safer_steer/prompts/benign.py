"""Stage I.2: a benign task as a script of short first-person turns; the last asks for the final answer."""

from pydantic import Field

from safer_steer.prompts.base import Inputs, Prompt, Verdicts


class BenignInput(Inputs):
    task: str
    turns: int = Field(ge=2, le=10)
    """How many turns to write."""


class ScriptOutput(Verdicts):
    turns: list[str] = Field(min_length=2, max_length=10, description="the user's turns, in order")


BENIGN = Prompt("benign", BenignInput, ScriptOutput)
