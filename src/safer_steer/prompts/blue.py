"""Stage II: the blue expert's answer under safety guidelines."""

from pydantic import Field

from safer_steer.prompts.base import Exchange, Inputs, Prompt, Verdicts


class BlueInput(Inputs):
    history: list[Exchange]
    question: str


class BlueOutput(Verdicts):
    thinking: str = Field(
        min_length=1, description="what the picture shows and what the dialogue is heading for"
    )
    answer: str = Field(min_length=1)


BLUE = Prompt("blue", BlueInput, BlueOutput)
