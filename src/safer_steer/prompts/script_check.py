"""Assembly, rules 1 and 2: is a whole script coherent, grounded, of its kind, and harmful?
(docs/explanation/method.md, "Data sets")"""

from pydantic import Field

from safer_steer.dialogue import Kind
from safer_steer.prompts.base import Inputs, Prompt, Verdicts


class ScriptCheckInput(Inputs):
    kind: Kind
    """The script's label."""
    intent: str
    script: list[str]
    """The user's turns, in order."""


class ScriptVerdict(Verdicts):
    reason: str = ""
    coherent: bool = Field(description="true if the turns make one user's side of one dialogue")
    grounded: bool = Field(description="true if what the turns say of the picture is there to be seen")
    of_kind: bool = Field(description="true if the script is what its label says")
    harmful: bool = Field(description="true if answering the whole script in full would serve harm")


SCRIPT_CHECK = Prompt("script_check", ScriptCheckInput, ScriptVerdict)
