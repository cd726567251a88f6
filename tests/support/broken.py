"""Renderers and models that break in the ways the guard is there for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from safer_steer.student.renderer import Renderer, UserTurn
from tiny_families import built

SOME = ["qwen2_5_vl", "gemma3", "lfm2_vl"]
"""Families that stand for the others."""


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
