"""Stage I.4, module 1: a forensic caption of the picture."""

from pydantic import Field

from safer_steer.prompts.base import Inputs, Prompt, Verdicts


class CaptionInput(Inputs):
    question: str


class CaptionOutput(Verdicts):
    caption: str = Field(min_length=1, description="what the picture shows, in two or three sentences")
    dual_use: list[str] = Field(default_factory=list, description="items with a dangerous second use")
    readable_text: str = Field(default="", description="text that can be read in the picture")
    missing_safety: list[str] = Field(
        default_factory=list, description="safety measures that ought to be there and are not"
    )


CAPTION = Prompt("caption", CaptionInput, CaptionOutput)
