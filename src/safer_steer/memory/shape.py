"""A student's sizes, from its config alone: the model is built on the meta device, where tensors have no
storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safer_steer.config import Student
from safer_steer.errors import UserError


@dataclass(frozen=True)
class Shape:
    """The model sizes that the estimate needs. Counts, not bytes."""

    parameters: int
    """Parameters of the student without adapters; a tied embedding counts once."""
    adapters: int
    """Parameters of the LoRA adapters; 0 if there are none."""
    trained: int
    """Parameters with a gradient: the adapters, or all unfrozen weights."""
    hidden: int
    layers: int
    heads_width: int
    """Number of query heads times their width."""
    cache_width: int
    """Number of key/value heads times their width."""
    intermediate: int
    vocabulary: int
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    patch_pixels: int
    """Pixels per patch."""
    patch_numbers: int
    """Numbers per patch from the processor: channels x frames x pixels."""
    patches_a_token: int


def shape_of(path: str, student: Student) -> Shape:
    """The sizes of the model at `path`, a folder or a hub id. Only the config is read.

    Raises:
        UserError: the config cannot be loaded, or its model family is not supported.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"student {path}: its config cannot be had: {str(error).splitlines()[0]}") from None
    return shape_of_config(config, student)


def shape_of_config(config: Any, student: Student) -> Shape:
    """The sizes of a model from its `transformers` config. Raises `UserError` like `shape_of`."""
    import torch
    from transformers import AutoModelForImageTextToText

    from safer_steer.student.families import modules_of
    from safer_steer.student.training import freeze_vision, lora

    modules = modules_of(config.model_type)
    try:
        text, vision = config.get_text_config(), config.vision_config
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        if adapters := lora(student, modules):
            from peft import get_peft_model

            with torch.device("meta"):
                model = get_peft_model(model, adapters)
        if student.freeze_vision:
            freeze_vision(model, modules)
        heads = text.num_attention_heads
        head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
        width = getattr(vision, "embed_dim", vision.hidden_size)
        return Shape(
            parameters=parameters,
            adapters=sum(parameter.numel() for parameter in model.parameters()) - parameters,
            trained=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
            hidden=text.hidden_size,
            layers=text.num_hidden_layers,
            heads_width=heads * head_width,
            cache_width=text.num_key_value_heads * head_width,
            intermediate=text.intermediate_size,
            vocabulary=text.vocab_size,
            vision_hidden=width,
            vision_intermediate=getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio),
            vision_layers=vision.depth,
            patch_pixels=vision.patch_size**2,
            patch_numbers=3 * vision.temporal_patch_size * vision.patch_size**2,
            patches_a_token=vision.spatial_merge_size**2,
        )
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"student {student.model}: its sizes cannot be read from its config: {error}"
        ) from None
