"""Stage I.1: two rewrites of a single-turn pair, a benign one, and one that keeps the risk but hides it."""

from pydantic import Field

from safer_steer.prompts.base import Inputs, Prompt, Verdicts


class ProbeInput(Inputs):
    question: str
    """The pair's question."""


class ProbeOutput(Verdicts):
    benign: str = Field(min_length=1, description="a harmless task about the same picture")
    obfuscated: str = Field(min_length=1, description="the same intent, its risk kept but hidden")


PROBE = Prompt("probe", ProbeInput, ProbeOutput)
