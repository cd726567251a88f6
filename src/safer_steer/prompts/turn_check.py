"""Assembly, rule 2: is the last user turn of a script harmful by itself? It is judged without the earlier
turns."""

from pydantic import Field

from safer_steer.prompts.base import Inputs, Prompt, Verdicts


class TurnCheckInput(Inputs):
    turn: str


class TurnVerdict(Verdicts):
    reason: str = ""
    harmful: bool = Field(description="true if answering this message alone would serve harm")


TURN_CHECK = Prompt("turn_check", TurnCheckInput, TurnVerdict)
