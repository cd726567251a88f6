"""Stage II: the red agent rewrites the template turn, given what was really said."""

from pydantic import Field

from safer_steer.prompts.base import Exchange, Inputs, Prompt, Verdicts


class RedInput(Inputs):
    intent: str
    history: list[Exchange]
    template: str
    """The script's turn, to be fitted to the history."""


class RedOutput(Verdicts):
    user: str = Field(min_length=1, description="the next user turn")


RED = Prompt("red", RedInput, RedOutput)
