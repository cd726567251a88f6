"""The section `bootstrap`: Stage II."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from safer_steer.config.kinds import Free
from safer_steer.dialogue import Strict


class SFT(Strict):
    """Supervised fine-tuning on the kept dialogues."""

    learning_rate: float = Field(1e-5, gt=0, description="peak learning rate")
    batch_size: int = Field(16, ge=1, description="dialogues per step")
    micro_batch_size: Free[int] = Field(1, ge=1, description="dialogues in memory at once")
    epochs: float = Field(2, gt=0, description="passes over the data")
    max_steps: int = Field(-1, description="stop after this many steps; -1 for no limit")
    warmup_ratio: float = Field(
        0.1, ge=0, le=1, description="share of the steps in which the learning rate warms up"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="learning-rate schedule")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
    single_turn: bool = Field(
        False, description="ablation: train on the original questions, in as many assistant tokens"
    )
    save_steps: int = Field(100, ge=1, description="steps between checkpoints")


class Bootstrap(Strict):
    """Stage II."""

    tau_safe: int = Field(
        8, ge=1, le=10, description="keep a dialogue if its worst safety score is at least this"
    )
    tau_help: float = Field(
        8, ge=1, le=10, description="keep a dialogue if its mean helpfulness is at least this"
    )
    dialogues: int | None = Field(None, ge=1, description="play at most this many scripts")
    blue: Literal["job", "chat"] = Field(
        "job",
        description="ask blue with the prompt of its job, or as a plain chat (for small and fine-tuned"
        " experts)",
    )
    blue_system: str | None = Field(
        None,
        description="system message of a blue expert asked as a chat, with its guidelines; null takes the"
        " student's",
    )
    sft: SFT = Field(default_factory=SFT, description="supervised fine-tuning")
