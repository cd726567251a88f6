"""A student's sizes, from its config alone: the model is built on the meta device, where tensors have no
storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safer_steer.config import Student
from safer_steer.errors import UserError

STRIDE = 32
"""Side, in pixels, of what becomes one token, where the tower's config does not say: a convolutional tower
halves a picture five times; some do so six times and make fewer tokens."""


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
    """0, like the next two, of a tower whose sizes its config does not say."""
    vision_intermediate: int
    vision_layers: int
    patch_pixels: int
    """Pixels per patch."""
    patch_numbers: int
    """Numbers per patch from the processor: channels x frames x pixels."""
    patches_a_token: int

    @property
    def layer(self) -> int:
        """Parameters of one layer of the language model, without biases and norms; of a dense one."""
        attention = 2 * self.heads_width + 2 * self.cache_width
        return self.hidden * (attention + 3 * self.intermediate)


def shape_of(path: str, student: Student) -> Shape:
    """The sizes of the model at `path`, a folder or a hub id. Only the config is read. Raises `UserError`:
    the config cannot be loaded, or its model family is not supported."""
    from safer_steer.student.load import load_model_config

    return shape_of_config(load_model_config(path), student)


def shape_of_config(config: Any, student: Student) -> Shape:
    """The sizes of a model from its `transformers` config. Raises `UserError` like `shape_of`."""
    import torch

    from safer_steer.student.load import empty_model
    from safer_steer.student.modules import freeze_vision
    from safer_steer.student.training import lora

    try:
        text = config.get_text_config()
        model = empty_model(config)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        if adapters := lora(student, model):
            from peft import get_peft_model

            with torch.device("meta"):
                model = get_peft_model(model, adapters)
        if student.freeze_vision:
            freeze_vision(model)
        heads = text.num_attention_heads
        head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
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
            **_tower(config),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"student {student.model}: its sizes cannot be read from its config: {error}"
        ) from None


def _tower(config: Any) -> dict[str, int]:
    """The sizes of the vision tower, and of its pictures. Of one that says no `patch_size`, such as a
    convolutional one or a wrapper of timm's, the picture's alone."""
    vision = config.vision_config
    if getattr(vision, "patch_size", None) is None:
        sizes = dict.fromkeys(("vision_hidden", "vision_intermediate", "vision_layers"), 0)
        return sizes | {"patch_pixels": STRIDE**2, "patch_numbers": 3 * STRIDE**2, "patches_a_token": 1}
    width = getattr(vision, "embed_dim", vision.hidden_size)
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    return {
        "vision_hidden": width,
        "vision_intermediate": getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio),
        "vision_layers": getattr(vision, "depth", None) or vision.num_hidden_layers,
        "patch_pixels": patch**2,
        "patch_numbers": 3 * getattr(vision, "temporal_patch_size", 1) * patch**2,
        "patches_a_token": _patches_a_token(config, patch),
    }


def _patches_a_token(config: Any, patch: int) -> int:
    """How many patches of a picture become one token; 1 if the config does not say."""
    vision = config.vision_config
    for part in (vision, config):
        for name in ("spatial_merge_size", "pooling_kernel_size"):
            if side := getattr(part, name, None):
                return int(side**2)
    if side := getattr(config, "scale_factor", None) or getattr(config, "downsample_factor", None):
        return int(side**2)
    if ratio := getattr(config, "downsample_ratio", None):
        return round(ratio**-2)
    if tokens := getattr(config, "mm_tokens_per_image", None):
        return int((vision.image_size // patch) ** 2 // tokens)
    return 1
