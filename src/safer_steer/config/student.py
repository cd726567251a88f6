"""The section `student`: the model that is aligned."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from safer_steer.config.kinds import Free, Section
from safer_steer.dialogue import Format

SHIPPED = Path(__file__).parent.parent / "sandbox" / "student"

"""The weights of the sandbox's base student, which come with this package."""


class Student(Section):
    """The model that is aligned."""

    model: str = "sandbox"
    """Hugging Face id or folder (relative to this file); `sandbox` for the shipped base student"""
    format: Format = Format.THINKING_ANSWER
    """layout of an assistant turn: thinking_answer or plain"""
    system: str = "You are a helpful assistant."
    """system message of every dialogue"""
    chat_template: str | None = None
    """file with a Jinja chat template to use instead of the model's own; relative to this file"""
    max_turn_tokens: int = Field(1024, ge=1)
    """token limit of one answer"""
    max_length: int = Field(32768, ge=64)
    """token limit of a whole dialogue"""
    max_pixels: int = Field(1_048_576, ge=784)
    """a picture with more pixels is scaled down to this many"""
    generation_tokens: Free[int] = Field(65_536, ge=1)
    """tokens in one batch of generation: prompts, padding and room for the answers; a single dialogue is
    always allowed"""
    kept_tokens: Free[int] = Field(131_072, ge=0)
    """tokens whose keys and values are kept from a dialogue's turn to its next, so that the history is not
    read again; 0 keeps none"""
    freeze_vision: bool = True
    """train only the language model, not the vision tower and the projector"""
    lora_rank: int = Field(0, ge=0)
    """train LoRA adapters of this rank; 0 trains all weights"""
    check_every: Free[int] = Field(10, ge=0)
    """steps between looks at whether the student in training sees its pictures, the first step included; what
    its loss is given is checked at every step; 0 for neither"""
    sharding: Free[Literal["none", "full"]] = "none"
    """in several training processes: each holds all weights (none, DDP), or a part (full, FSDP2)"""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """number type of the weights"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where the student runs"""

    @property
    def base(self) -> str:
        """Where the base student's weights are: the shipped folder, or the Hugging Face id or folder that
        `model` names."""
        return str(SHIPPED) if self.model == "sandbox" else self.model
