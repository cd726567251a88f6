"""Stage III: the Safety Tutor with a memory of what breached the student lately (`rl.tutor_memory`)."""

from pydantic import BaseModel, Field

from safer_steer.prompts.base import Prompt
from safer_steer.prompts.tutor import TutorInput, TutorVerdict


class Remembered(BaseModel):
    """An approach, and how it went in the last steps of the training."""

    approach: str
    meaning: str
    tried: int
    breached: int
    most: list[str]
    """Categories of risk in which it breached most often: `privacy: 3 of 4`."""


class TutorMemoryInput(TutorInput):
    memory: list[Remembered]
    drawn: str
    """The approach to take next."""


class TutorMemoryVerdict(TutorVerdict):
    approach: str = Field(
        default="", description='name of the approach of the next user turn; "" if it is no attack'
    )


TUTOR_MEMORY = Prompt("tutor_memory", TutorMemoryInput, TutorMemoryVerdict)
