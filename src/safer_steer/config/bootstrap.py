"""The section `bootstrap`: Stage II."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from safer_steer.config.kinds import Free, Section


class SFT(Section):
    """Supervised fine-tuning on the kept dialogues."""

    learning_rate: float = Field(1e-5, gt=0)
    """peak learning rate"""
    batch_size: int = Field(16, ge=1)
    """dialogues per step"""
    micro_batch_size: Free[int] = Field(1, ge=1)
    """dialogues in memory at once"""
    epochs: float = Field(2, gt=0)
    """passes over the data"""
    max_steps: int = -1
    """stop after this many steps; -1 for no limit"""
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    """share of the steps in which the learning rate warms up"""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """learning-rate schedule"""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW weight decay"""
    single_turn: bool = False
    """ablation: train on the original questions, in as many assistant tokens"""
    save_steps: int = Field(100, ge=1)
    """steps between checkpoints"""


class Bootstrap(Section):
    """Stage II."""

    tau_safe: int = Field(8, ge=1, le=10)
    """keep a dialogue if its worst safety score is at least this"""
    tau_help: float = Field(8, ge=1, le=10)
    """keep a dialogue if its mean helpfulness is at least this"""
    dialogues: int | None = Field(None, ge=1)
    """play at most this many scripts"""
    blue: Literal["job", "chat"] = "job"
    """ask blue with the prompt of its job, or as a plain chat (for small and fine-tuned experts)"""
    blue_system: str | None = None
    """system message of a blue expert asked as a chat, with its guidelines; null takes the student's"""
    sft: SFT = Field(default_factory=SFT)
    """supervised fine-tuning"""
