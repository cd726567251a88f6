"""The parts of a vision-language model, found in the model itself: language model, vision tower, the rest.

The rest, such as the projector, maps the vision tower's output to tokens of the language model. Nothing
depends on what a family calls its modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from safer_steer.errors import UserError


@dataclass(frozen=True)
class Parts:
    """A model's language part. Everything else sees."""

    language: nn.Module
    """The language model without its head."""
    head: nn.Module | None
    """The layer that maps to the vocabulary."""


def parts_of(model: Any) -> Parts:
    """Find the parts of a model, with adapters or without.

    Raises:
        UserError: language model and vision tower cannot be told apart.
    """
    inside = model.get_base_model() if hasattr(model, "peft_config") else model
    language, vision = inside.get_decoder(), inside.get_encoder(modality="image")
    whole = (None, inside, inside.base_model)
    if language in whole or vision in whole or _within(language, vision) or _within(vision, language):
        raise UserError(
            f"student {inside.config.name_or_path or type(inside).__name__}: language model and vision tower"
            f" of {type(inside).__name__} cannot be told apart; choose another model"
        )
    return Parts(language, inside.get_output_embeddings())


def _within(part: nn.Module, whole: nn.Module) -> bool:
    return any(part is other for other in whole.modules())


def freeze_vision(model: Any) -> None:
    """Freeze everything but the language model and its head: vision tower and projector stay as they are.

    Raises:
        UserError: language model and vision tower cannot be told apart.
    """
    parts = parts_of(model)
    spoken = {id(weight) for weight in parts.language.parameters()}
    if parts.head is not None:
        spoken |= {id(weight) for weight in parts.head.parameters()}
    for weight in model.parameters():
        if id(weight) not in spoken:
            weight.requires_grad_(False)


def adapted_layers(model: Any) -> list[str]:
    """Full names of the layers that get adapters: every linear layer of the language model, without its head.

    Raises:
        UserError: language model and vision tower cannot be told apart.
    """
    parts = parts_of(model)
    spoken = {id(part) for part in parts.language.modules() if part is not parts.head}
    layers = model.named_modules()
    return [name for name, part in layers if isinstance(part, nn.Linear) and id(part) in spoken]
