"""Stage I.3: an obfuscated task as a script, neutral at every turn, vague first and specific later, the meaning kept."""

from pydantic import Field

from safer_steer.prompts.base import Inputs, Prompt
from safer_steer.prompts.benign import ScriptOutput


class ObfuscatedInput(Inputs):
    task: str
    """The obfuscated rewrite of the probe."""
    intent: str
    """The original question, whose meaning the whole script must keep."""
    turns: int = Field(ge=2, le=10)


OBFUSCATED = Prompt("obfuscated", ObfuscatedInput, ScriptOutput)
