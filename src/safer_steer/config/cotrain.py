"""The section `rl.cotrain` of the configuration: an attacker and the student learn in turns."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from safer_steer.config.kinds import Free, Section

SHIPPED_ATTACKER = Path(__file__).parent.parent / "sandbox" / "attacker"
"""The adapter of the sandbox's attacker, which comes with this package."""


class Cotrain(Section):
    """`rl.algorithm: cotrain`: attacker and student as two LoRA adapters of one base."""

    attacker: str | None = None
    """folder of the adapter that the attacker begins with; null takes the shipped one for the sandbox's
    student, and a new adapter for any other"""
    student: str | None = None
    """folder of the adapter that the student begins with; null takes what rl.start_from says"""
    every: int = Field(5, ge=1)
    """steps of one side before the other's turn; rl.steps counts the steps of each"""
    learns: Literal["both", "attacker", "student"] = "both"
    """the side that does not learn stays as it begins"""
    shared_weights: bool = False
    """one adapter plays both sides: each block begins with the weights that the other side's ended with"""
    rules: bool = True
    """the tutor, which adapts by rule or by its prompt, is among the student's opponents"""
    latest: float = Field(0.5, ge=0, le=1)
    """share of steps against the other side as it is now; the others draw from its earlier checkpoints"""
    w_similarity: float = Field(0.5, ge=0)
    """penalty for an attacker's turns that are like those of its earlier steps"""
    max_equal_groups: Free[float] = Field(0.95, ge=0, le=1)
    """stop the run if the returns of a larger share of one side's groups are equal over its last 5 steps"""
    max_twin_refusals: Free[float] = Field(0.6, ge=0, le=1)
    """stop the run if the student refuses a safe request in a larger share of the benign dialogues of the
    last 5 steps"""

    @model_validator(mode="after")
    def _shared(self) -> Cotrain:
        if self.shared_weights and (self.learns != "both" or self.attacker):
            raise ValueError(
                "shared_weights trains one adapter from both sides, which begins as the student does; leave"
                " learns and attacker out"
            )
        return self
