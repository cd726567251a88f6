"""Renderers, models and trainers that break in the ways the guard is there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import Trainer

from safer_steer.student.renderer import Renderer, UserTurn
from tiny_families import built

SOME = ["qwen2_5_vl", "gemma3", "lfm2_vl"]
"""Families that stand for the others."""


Sabotage = Callable[[Trainer], None]


class Blind(Renderer):
    """Renders picture tokens, and loses the pictures."""

    def user_turn(self, *args: Any, **options: Any) -> UserTurn:
        return replace(super().user_turn(*args, **options), pictures={})


class Deaf(Renderer):
    """Loses the pictures and their tokens."""

    def user_turn(self, text: str, images: Any, first: bool) -> UserTurn:
        return super().user_turn(text, [], first)


class Verbose(Renderer):
    """Puts more between two turns than the chat template."""

    def user_turn(self, text: str, images: Any, first: bool) -> UserTurn:
        turn = super().user_turn(text, images, first)
        return turn if first else replace(turn, ids=[*turn.ids, *self.plain("Well,")])


def unseeing(family: str, folder: Path) -> None:
    """Save the family's model with a projector of zeros."""
    model = built.__wrapped__(family)[0]
    names = {
        "qwen2_5_vl": "visual.merger",
        "gemma3": "multi_modal_projector",
        "lfm2_vl": "multi_modal_projector",
    }
    projector = model.get_submodule(f"model.{names[family]}")
    with torch.no_grad():
        for weight in projector.parameters():
            weight.zero_()
    model.save_pretrained(folder)


def before_training(monkeypatch: pytest.MonkeyPatch, stage: ModuleType, sabotage: Sabotage) -> None:
    """Sabotage the stage's trainer when it is ready to train."""
    train = stage.train  # type: ignore[attr-defined]

    def sabotaged(trainer: Trainer, *args: Any) -> None:
        sabotage(trainer)
        train(trainer, *args)

    monkeypatch.setattr(stage, "train", sabotaged)


def freeze_b(trainer: Trainer) -> None:
    """What PEFT leaves trainable is lost on the way, for half of the adapter."""
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            weight.requires_grad_(False)


def cut_gradients(trainer: Trainer) -> None:
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.register_hook(torch.zeros_like)


def spoil_gradients(trainer: Trainer) -> None:
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.register_hook(lambda gradient: gradient * torch.nan)


def lose_weights(trainer: Trainer) -> None:
    """The optimiser has other weights than the model."""
    trainer.optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1e-3)


def lose_b(trainer: Trainer) -> None:
    """The optimiser has all weights of the adapter but B's."""
    others = [
        weight
        for name, weight in trainer.model.named_parameters()
        if weight.requires_grad and "lora_B" not in name
    ]
    trainer.optimizer = torch.optim.AdamW(others, lr=1e-3)
