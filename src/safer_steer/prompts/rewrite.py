"""Stage I.4, module 2: the obfuscated intent rewritten with one of eight strategies."""

from enum import StrEnum

from pydantic import Field

from safer_steer.prompts.base import Inputs, Prompt, Verdicts


class Strategy(StrEnum):
    ROLEPLAY = "roleplay"
    EDUCATIONAL_BYPASS = "educational_bypass"
    FICTION = "fiction"
    REVERSE_PSYCHOLOGY = "reverse_psychology"
    AUTHORITY = "authority"
    CONTINUATION_TRICK = "continuation_trick"
    HYPOTHETICAL = "hypothetical"
    EMOTIONAL_URGENCY = "emotional_urgency"


class RewriteInput(Inputs):
    task: str
    """The obfuscated rewrite of the probe."""
    caption: str
    strategy: Strategy


class RewriteOutput(Verdicts):
    rewrite: str = Field(min_length=1)


REWRITE = Prompt("rewrite", RewriteInput, RewriteOutput)
