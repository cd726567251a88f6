"""Tiny random vision-language models of several families, with processors and their own chat templates.

Everything is built from configs, offline. `built(name)` gives model and processor; each is built once.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers.models.gemma3 import Gemma3ImageProcessor
from transformers.models.got_ocr2 import GotOcr2ImageProcessor
from transformers.models.idefics3 import Idefics3ImageProcessor
from transformers.models.lfm2_vl import Lfm2VlImageProcessor
from transformers.models.llava_next import LlavaNextImageProcessor
from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor
from transformers.models.smolvlm import SmolVLMImageProcessor, SmolVLMVideoProcessor

import tiny_further as further
import tiny_newer as newer
import tiny_others as others
import tiny_tried as tried
from places import ROOT
from safer_steer.student.modules import parts_of
from tiny_parts import ROPE, VISION, Built, llava_tokenizer, template, text, tokenizer

QWEN = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
]  # fmt: skip


def qwen(name: str) -> Built:
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5."""
    words = tokenizer(QWEN, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    words.add_tokens(["<think>", "</think>"])
    old = name.startswith("qwen2")
    patch = 14 if old else 16
    kind = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}.get(name, "Qwen3VLProcessor")
    chat = {"qwen2_vl": "qwen2_5_vl", "qwen3_5": "qwen3_5_nothink"}.get(name, name)
    size = {"shortest_edge": 4 * patch**2, "longest_edge": 24 * patch**2}
    processor = getattr(hf, kind)(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=patch),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor() if old else hf.Qwen3VLVideoProcessor(),
        chat_template=template(chat),
    )
    number = words.convert_tokens_to_ids
    ids = {
        "image_token_id": number("<|image_pad|>"),
        "video_token_id": number("<|video_pad|>"),
        "vision_start_token_id": number("<|vision_start|>"),
        "vision_end_token_id": number("<|vision_end|>"),
        "tie_word_embeddings": True,
    }
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "patch_size": patch}
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64}
    said = text(words, rope_parameters=ROPE)
    if name == "qwen2_vl":
        vision |= {"embed_dim": 64, "mlp_ratio": 2}
        return hf.Qwen2VLConfig(text_config=said, vision_config=vision, **ids), processor
    if name == "qwen2_5_vl":
        vision |= {"window_size": 112, "fullatt_block_indexes": [1]}
        return hf.Qwen2_5_VLConfig(text_config=said, vision_config=vision, **ids), processor
    vision |= {"num_position_embeddings": 64}
    said |= {"head_dim": 16, "rope_parameters": ROPE | {"mrope_interleaved": True}}
    if name == "qwen3_vl":
        vision |= {"deepstack_visual_indexes": [0, 1]}
        return hf.Qwen3VLConfig(text_config=said, vision_config=vision, **ids), processor
    said["rope_parameters"] |= {"partial_rotary_factor": 1.0}
    said |= {"layer_types": ["linear_attention", "full_attention"]}
    said |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
    said |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    return hf.Qwen3_5Config(text_config=said, vision_config=vision, **ids), processor


def qwen_moe(name: str) -> Built:
    """Qwen3-VL MoE and Qwen3.5 MoE. Their experts are stacked parameters."""
    config, processor = qwen(name)
    kind = {"qwen3_vl": hf.Qwen3VLMoeConfig, "qwen3_5": hf.Qwen3_5MoeConfig}[name]
    said, vision = config.text_config.to_dict(), config.vision_config.to_dict()
    said |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "mlp_only_layers": []}
    said |= {"shared_expert_intermediate_size": 32}
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return kind(
        text_config=said | {"model_type": f"{name}_moe_text"},
        vision_config=vision | {"model_type": f"{name}_moe_vision"},
        **{name: getattr(config, name) for name in ids},
    ), processor


def gemma3() -> Built:
    pictures = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    specials = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *pictures]
    names = dict(zip(("boi_token", "eoi_token", "image_token"), pictures, strict=True))
    words = tokenizer(
        specials, True, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>", extra_special_tokens=names
    )
    processor = hf.Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 56, "width": 56}),
        tokenizer=words,
        image_seq_length=4,
        chat_template=template("gemma3"),
    )
    start, end, soft = map(words.convert_tokens_to_ids, pictures)
    layers = ["sliding_attention", "full_attention"]
    said = text(words, head_dim=16, layer_types=layers, sliding_window=512, query_pre_attn_scalar=16)
    return hf.Gemma3Config(
        text_config=said,
        vision_config=VISION | {"image_size": 56, "patch_size": 14},
        mm_tokens_per_image=4,
        boi_token_index=start,
        eoi_token_index=end,
        image_token_index=soft,
        image_token_id=soft,
    ), processor


def smolvlm(name: str) -> Built:
    """SmolVLM and Idefics3. Large pictures are cut into tiles of 56 x 56. Each row of a batch has as many
    tiles as the largest."""
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    specials = ["<|im_end|>", "<|endoftext|>", "<|im_start|>", "<end_of_utterance>"]
    specials += ["<fake_token_around_image>", "<image>", "<global-img>", "<video>", *tiles]
    words = tokenizer(
        specials, eos_token="<end_of_utterance>", pad_token="<|im_end|>", bos_token="<|im_start|>"
    )
    sizes = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
    frames = {"video_size": {"longest_edge": 56}, "max_frames": 2, "fps": 1}
    common = {"tokenizer": words, "image_seq_len": 4, "chat_template": template(name)}
    if name == "smolvlm":
        kind: Any = hf.SmolVLMConfig
        processor = hf.SmolVLMProcessor(
            image_processor=SmolVLMImageProcessor(do_image_splitting=True, **sizes),
            video_processor=SmolVLMVideoProcessor(video_sampling=frames, **sizes),
            **common,
        )
    else:
        kind = hf.Idefics3Config
        images = Idefics3ImageProcessor(do_image_splitting=True, **sizes)
        processor = hf.Idefics3Processor(image_processor=images, **common)
    return kind(
        text_config=text(words, model_type="llama"),
        vision_config=VISION | {"image_size": 56, "patch_size": 14},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
    ), processor


INTERNVL = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% for part in message['content'] %}{% if part['type'] == 'image' %}<IMG_CONTEXT>
{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""What InternVL3's template writes for messages in parts."""


def internvl() -> Built:
    pictures = ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    words = tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *pictures],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=dict(zip(names, pictures, strict=True)),
    )
    size = {"height": 56, "width": 56}
    processor = hf.InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=4),
        tokenizer=words,
        video_processor=hf.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=INTERNVL,
    )
    return hf.InternVLConfig(
        text_config=text(words, model_type="qwen2"),
        vision_config=VISION | {"image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=True,
    ), processor


def lfm2_vl() -> Built:
    """A language model of convolutions and attention."""
    pictures = ["<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"]
    names = ("image_token", "image_start_token", "image_end_token", "image_thumbnail")
    tiles = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 4) for column in range(1, 4)]
    words = tokenizer(
        ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", *pictures, *tiles],
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        bos_token="<|startoftext|>",
        extra_special_tokens=dict(zip(names, pictures, strict=True)),
    )
    images = Lfm2VlImageProcessor(
        downsample_factor=2,
        do_image_splitting=False,
        min_image_tokens=4,
        max_image_tokens=16,
        max_num_patches=64,
        tile_size=64,
        encoder_patch_size=16,
    )
    processor = hf.Lfm2VlProcessor(
        image_processor=images, tokenizer=words, chat_template=template("lfm2_2_5_vl")
    )
    layers = ["conv", "full_attention"]
    return hf.Lfm2VlConfig(
        text_config=text(words, model_type="lfm2", layer_types=layers, block_multiple_of=16),
        vision_config=VISION | {"patch_size": 16, "num_patches": 64, "model_type": "siglip2_vision_model"},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        projector_hidden_size=64,
        downsample_factor=2,
        tie_word_embeddings=True,
    ), processor


def llava_next() -> Built:
    """A picture is scaled to one of several grids of tiles."""
    words = llava_tokenizer()
    grids = [[56, 112], [112, 56], [112, 112]]
    size = {"height": 56, "width": 56}
    images = LlavaNextImageProcessor(size={"shortest_edge": 56}, crop_size=size, image_grid_pinpoints=grids)
    processor = hf.LlavaNextProcessor(
        image_processor=images,
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("llava_next"),
    )
    image = words.convert_tokens_to_ids("<image>")
    return hf.LlavaNextConfig(
        text_config=text(words, model_type="mistral", head_dim=16, sliding_window=None),
        vision_config=VISION | {"image_size": 56, "patch_size": 14, "model_type": "clip_vision_model"},
        image_token_index=image,
        image_token_id=image,
        image_grid_pinpoints=grids,
        tie_word_embeddings=True,
    ), processor


FAMILIES: dict[str, Callable[[], Built]] = {
    "qwen2_vl": lambda: qwen("qwen2_vl"),
    "qwen2_5_vl": lambda: qwen("qwen2_5_vl"),
    "qwen3_vl": lambda: qwen("qwen3_vl"),
    "qwen3_5": lambda: qwen("qwen3_5"),
    "gemma3": gemma3,
    "smolvlm": lambda: smolvlm("smolvlm"),
    "idefics3": lambda: smolvlm("idefics3"),
    "internvl": internvl,
    "lfm2_vl": lfm2_vl,
    "llava_next": llava_next,
    "gemma4": further.gemma4,
    "mistral3": further.mistral3,
    "glm4v": further.glm4v,
    "idefics2": further.idefics2,
    "fast_vlm": further.fast_vlm,
}
"""Those that every test of families runs."""
OTHERS = others.OTHERS | tried.TRIED | newer.NEWER | newer.LOST
OTHERS |= {"qwen3_vl_moe": lambda: qwen_moe("qwen3_vl"), "qwen3_5_moe": lambda: qwen_moe("qwen3_5")}
"""Those that are refused, or tried in one step (tests/student/test_other_families.py)."""

SHIPPED = {"qwen3_5": "qwen3.5-chat.jinja", "gemma4": "gemma4-chat.jinja"}
SHIPPED |= dict.fromkeys(("qwen3_5_moe", "qwen4_exp"), SHIPPED["qwen3_5"])
SHIPPED["gemma4_unified"] = SHIPPED["gemma4"]
"""Families whose own chat template drops parts of past answers, and the one that takes its place."""


@cache
def built(name: str) -> Built:
    """A family's model in float32, with logits that differ from one another, and its processor.

    Tests must leave both as they are.
    """
    hf.set_seed(0)
    config, processor = (FAMILIES | OTHERS)[name]()
    sharper = 1.5 if name in ("gemma3", "llava_next") else 4
    model = hf.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and weight.any():
                weight.mul_(sharper)
            elif weight.ndim > 1:  # Gemma's projector begins at zero
                weight.normal_(0, 0.1)
    return model, processor


def keeping_answers(name: str, processor: Any) -> Any:
    """The processor, with the shipped chat template where the family's own drops parts of past answers."""
    if name in SHIPPED:
        processor = copy(processor)
        processor.chat_template = (ROOT / "configs" / SHIPPED[name]).read_text()
    return processor


def moved(before: Any, after: Any) -> tuple[set[str], set[str]]:
    """Names of the weights that differ: those of the language model with its head, and all others."""
    parts = parts_of(after)
    spoken = {id(weight) for weight in (*parts.language.parameters(), *parts.head.parameters())}
    old, speaking, seeing = dict(before.named_parameters()), set(), set()
    for name, weight in after.named_parameters():
        if not torch.equal(weight, old[name]):
            (speaking if id(weight) in spoken else seeing).add(name)
    return speaking, seeing


def saved(name: str, folder: Path) -> dict[str, Any]:
    """Save a family's model and processor; the settings of a student that is trained from there."""
    model, processor = built(name)
    model.save_pretrained(folder)
    keeping_answers(name, processor).save_pretrained(folder)
    return {
        "model": str(folder),
        "max_turn_tokens": 8,
        "max_length": 512,
        "max_pixels": 112 * 112,
        "dtype": "float32",
        "device": "cpu",
    }
