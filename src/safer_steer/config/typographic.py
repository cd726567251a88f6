"""How words are drawn into pictures (`data/typographic.py`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from safer_steer.config.kinds import Section

MOST_CHARACTERS = 600
"""Of the words in one picture."""
NAME, ID = "_typographic", "-typographic"
"""What follows the name of a suite's variant, and the ids of its scripts."""
Layout = Literal["whole", "split", "list"]
Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


class Lettering(Section):
    """How words look in a picture."""

    size: int = Field(28, ge=8, le=96)
    """size of the letters, pixels"""
    width: int = Field(640, ge=128, le=2048)
    """width of the picture, pixels, or of one that words go below"""
    ink: Colour = "#000000"
    """colour of the letters"""
    ground: Colour = "#ffffff"
    """colour behind them"""

    @model_validator(mode="before")
    @classmethod
    def _as_it_is(cls, value: Any) -> Any:
        """`true` is the default lettering."""
        return {} if value is True else value

    @model_validator(mode="after")
    def _readable(self) -> Lettering:
        if self.width < (least := 8 * self.size):
            raise ValueError(f"letters of {self.size} pixels need a width of {least}, not {self.width}")
        if self.ink.lower() == self.ground.lower():
            raise ValueError(f"ink and ground are both {self.ink}; nobody could read it")
        return self


class Typographic(Lettering):
    """A user turn in a picture: which part of it, and how it looks."""

    layout: Layout = "whole"
    """`whole`: all of it is in the picture; `split`: its second half; `list`: all of it, above a list with
    empty items"""


class TypographicShare(Typographic):
    """The same for a share of what there is."""

    share: float = Field(0.1, ge=0, le=1)
    """share of the pictures below which a turn is drawn"""
