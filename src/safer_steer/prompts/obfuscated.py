"""Stage I.3: an obfuscated task as a script. Every turn is neutral, early turns are vague, later ones
specific, and the meaning is kept."""

from pydantic import Field

from safer_steer.prompts.base import Inputs, Prompt, Verdicts


class ObfuscatedInput(Inputs):
    task: str
    """The obfuscated rewrite of the probe."""
    intent: str
    """The original question, whose meaning the whole script must keep."""
    turns: int = Field(ge=2, le=10)


class ObfuscatedTurn(Verdicts):
    user: str = Field(min_length=1)
    risk: int = Field(ge=1, le=5)


class ObfuscatedOutput(Verdicts):
    turns: list[ObfuscatedTurn] = Field(min_length=2, max_length=10, description="the user's turns, in order")


OBFUSCATED = Prompt("obfuscated", ObfuscatedInput, ObfuscatedOutput)
