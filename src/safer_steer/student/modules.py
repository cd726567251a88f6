"""The parts of a vision-language model, found in the model itself: language model, vision tower, the rest.

The rest, such as the projector, maps the vision tower's output to tokens of the language model. Nothing
depends on what a family calls its modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from transformers.modeling_layers import GradientCheckpointingLayer

from safer_steer.errors import UserError


@dataclass(frozen=True)
class Parts:
    """A model's language part. Everything else sees."""

    language: nn.Module
    """The language model without its head."""
    head: nn.Module | None
    """The layer that maps to the vocabulary."""


def inside(model: Any) -> Any:
    """The model itself, without PEFT's wrapper. Its adapters are in its layers."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def parts_of(model: Any) -> Parts:
    """Find the parts of a model, with adapters or without. One without a vision tower may have a projector of
    pixels alone. Raises `UserError` if language model and vision tower cannot be told apart."""
    model = inside(model)
    language, vision = model.get_decoder(), model.get_encoder(modality="image")
    whole, parts = (None, model, model.base_model), Parts(language, model.get_output_embeddings())
    if vision in whole:
        apart = not {id(weight) for weight in model.parameters()} <= _of_language(parts)
    else:
        apart = not (_within(language, vision) or _within(vision, language))
    if language in whole or not apart:
        kind = type(model).__name__
        raise UserError(
            f"student {model.config.name_or_path or kind}: language model and vision tower of {kind} cannot"
            " be told apart; choose another model"
        )
    return parts


def _of_language(parts: Parts) -> set[int]:
    """Ids of the weights of the language model and its head."""
    return {
        id(weight)
        for part in (parts.language, parts.head)
        if part is not None
        for weight in part.parameters()
    }


def _within(part: nn.Module, whole: nn.Module) -> bool:
    return any(part is other for other in whole.modules())


def freeze_vision(model: Any) -> None:
    """Freeze everything but the language model and its head: vision tower and projector stay as they are.
    Raises `UserError` if language model and vision tower cannot be told apart."""
    of_language = _of_language(parts_of(model))
    for weight in model.parameters():
        if id(weight) not in of_language:
            weight.requires_grad_(False)


def adapted_layers(model: Any) -> list[str]:
    """Full names of the layers that get adapters: every linear layer of the language model, without its head.
    Raises `UserError` if language model and vision tower cannot be told apart.

    A subclass with a forward pass of its own, such as the router of Llama 4's experts, is no linear layer."""
    parts = parts_of(model)
    of_language = {id(part) for part in parts.language.modules() if part is not parts.head}
    layers = model.named_modules()
    return [name for name, part in layers if _is_linear(part) and id(part) in of_language]


def _is_linear(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) and type(part).forward is nn.Linear.forward


def without_adapters(model: Any) -> str:
    """What of a mixture of experts gets no adapter, in one sentence; "" if nothing is left out. Raises
    `UserError` if language model and vision tower cannot be told apart.

    Experts are stacked in one parameter [experts, out, in], which is no linear layer."""
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


def hold_modes(model: Any) -> None:
    """Keep in evaluation mode, whatever a trainer sets: batch normalisation, parts with neither weights nor
    parts (dropout and stochastic depth are such), and all that is frozen outside the language model. To be
    called when it is settled what is frozen."""
    frozen = _frozen(model)
    for part in model.modules():
        empty = not [*part.children(), *part.parameters()]
        if empty or isinstance(part, _BatchNorm) or id(part) in frozen:
            part.training = False
            part.train = partial(_stays, part)


def _stays(part: nn.Module, mode: bool = True) -> nn.Module:
    """In place of `part.train`. What it consists of may be in training mode."""
    part.training = False
    for inner in part.children():
        inner.train(mode)
    return part


def _frozen(model: Any) -> set[int]:
    """Modules outside the language model without a weight that is trained.

    Layers that can be computed twice to save memory are left out: they do so in training mode only. What they
    consist of is held.
    """
    try:
        language = parts_of(model).language
    except UserError:  # its parts cannot be told apart
        return set()
    of_language = {id(part) for part in language.modules()}
    return {
        id(part)
        for part in model.modules()
        if id(part) not in of_language
        and not any(weight.requires_grad for weight in part.parameters())
        and not isinstance(part, GradientCheckpointingLayer)
    }
