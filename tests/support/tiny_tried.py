"""Tiny models of further families that are trained in one step of SFT and of GRPO. Their templates write what
the published ones write, or what docs/explanation/students.md says is to be given instead."""

from __future__ import annotations

from collections.abc import Callable

import transformers as hf
from transformers.models.kimi_k25 import Kimi_K25ImageProcessor, Kimi_K25VideoProcessor
from transformers.models.paddleocr_vl import PaddleOCRVLImageProcessor

from tiny_parts import ROPE, VISION, Built, text, tokenizer

KIMI = """{% for message in messages %}{% if message['role'] == 'system' %}<|im_system|>
{%- elif message['role'] == 'user' %}<|im_user|>{% else %}<|im_assistant|>{% endif %}
{{- message['role'] }}<|im_middle|>{% if message['role'] == 'assistant' %}<think></think>{% endif %}
{%- for part in message['content'] %}{% if part['type'] == 'image' %}
{{- '<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\\n' }}{% else %}{{ part['text'] }}
{%- endif %}{% endfor %}<|im_end|>{% endfor %}
{%- if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|><think></think>{% endif %}"""
"""What Kimi K2.5's template writes without reasoning."""


def kimi_k25() -> Built:
    """Its pixels are [patches, 3, 14, 14], as are PaddleOCR-VL's: TRL takes them for tiles of pictures."""
    media = ["<|media_begin|>", "<|media_content|>", "<|media_end|>", "<|media_pad|>", "<|video|>"]
    roles = ["<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"]
    words = tokenizer(["[PAD]", "<|im_end|>", *roles, *media], eos_token="<|im_end|>", pad_token="[PAD]")
    words.add_tokens(["<think>", "</think>"])
    processor = hf.Kimi_K25Processor(
        image_processor=Kimi_K25ImageProcessor(),
        video_processor=Kimi_K25VideoProcessor(),
        tokenizer=words,
        chat_template=KIMI,
    )
    said = text(words, model_type="deepseek_v3", num_key_value_heads=4, kv_lora_rank=16, q_lora_rank=16)
    said |= {"qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "moe_intermediate_size": 32}
    said |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    number = words.convert_tokens_to_ids
    return hf.Kimi_K25Config(
        text_config=said | {"first_k_dense_replace": 1, "n_shared_experts": 1},
        vision_config=VISION | {"patch_size": 14, "pos_emb_height": 8, "pos_emb_width": 8},
        projection_hidden_size=64,
        image_token_id=number("<|media_pad|>"),
        video_token_id=number("<|video|>"),
        vision_start_token_id=number("<|media_begin|>"),
        vision_end_token_id=number("<|media_end|>"),
    ), processor


PADDLE = """<|begin_of_sentence|>{% for message in messages %}{% if message['role'] == 'user' %}User:{{ ' ' }}
{%- for part in message['content'] %}{% if part['type'] == 'image' %}<|IMAGE_START|><|IMAGE_PLACEHOLDER|>
{#- #}<|IMAGE_END|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}
{% elif message['role'] == 'system' %}{{ message['content'][0]['text'] }}
{% else %}Assistant:
{{ message['content'][0]['text'] }}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:
{% endif %}"""


def paddleocr_vl() -> Built:
    pictures = ["<|IMAGE_START|>", "<|IMAGE_PLACEHOLDER|>", "<|IMAGE_END|>"]
    words = tokenizer(
        ["<pad>", "<video>", "</s>", "<|begin_of_sentence|>", *pictures],
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<|IMAGE_PLACEHOLDER|>"},
    )
    size = {"shortest_edge": 4 * 14**2, "longest_edge": 48 * 14**2}
    processor = hf.PaddleOCRVLProcessor(
        image_processor=PaddleOCRVLImageProcessor(size=size, patch_size=14, merge_size=2),
        tokenizer=words,
        chat_template=PADDLE,
    )
    start, image, end, video = map(words.convert_tokens_to_ids, [*pictures, "<video>"])
    return hf.PaddleOCRVLConfig(
        text_config=text(words, rope_parameters=ROPE, head_dim=16),
        vision_config=VISION | {"image_size": 112, "patch_size": 14, "spatial_merge_size": 2},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    ), processor


TRIED: dict[str, Callable[[], Built]] = {"kimi_k25": kimi_k25, "paddleocr_vl": paddleocr_vl}
