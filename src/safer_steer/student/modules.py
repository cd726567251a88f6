"""The parts of a vision-language model, found in the model itself: language model, vision tower, the rest.

The rest, such as the projector, maps the vision tower's output to tokens of the language model. Nothing
depends on what a family calls its modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

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

    A subclass with a forward pass of its own, such as the router of Llama 4's experts, is no linear layer.

    Raises:
        UserError: language model and vision tower cannot be told apart.
    """
    parts = parts_of(model)
    spoken = {id(part) for part in parts.language.modules() if part is not parts.head}
    layers = model.named_modules()
    return [name for name, part in layers if _is_linear(part) and id(part) in spoken]


def _is_linear(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) and type(part).forward is nn.Linear.forward


def without_adapters(model: Any) -> str:
    """What of a mixture of experts gets no adapter, in one sentence; "" if nothing is left out.

    Experts are stacked in one parameter [experts, out, in], which is no linear layer.

    Raises:
        UserError: language model and vision tower cannot be told apart.
    """
    language = parts_of(model).language
    stacked = {
        f"{name}.{key}": weight.numel()
        for name, part in language.named_modules()
        for key, weight in part.named_parameters(recurse=False)
        if weight.ndim > 2 and not isinstance(part, _ConvNd)
    }
    if not stacked:
        return ""
    share = sum(stacked.values()) / sum(weight.numel() for weight in language.parameters())
    return (
        f"student.lora_rank: the experts ({next(iter(stacked))} and others, {share:.0%} of the language"
        " model's weights) are stacked parameters and get no adapter; they stay as they are"
    )
