"""Tiny models of further families that are trained in one step of SFT and of GRPO. Their templates write what
the published ones write, or what docs/explanation/students.md says is to be given instead."""

from __future__ import annotations

from collections.abc import Callable

import transformers as hf
from transformers.models.deepseek_vl import DeepseekVLImageProcessor
from transformers.models.janus import JanusImageProcessor
from transformers.models.kimi_k25 import Kimi_K25ImageProcessor, Kimi_K25VideoProcessor
from transformers.models.paddleocr_vl import PaddleOCRVLImageProcessor
from transformers.models.pixtral import PixtralImageProcessor

from tiny_further import glm4v
from tiny_others import chat
from tiny_parts import ROPE, VISION, Built, llava_tokenizer, text, tokenizer

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


LLAVA = """<s>{% for message in messages %}{% if message['role'] == 'user' %}USER:{{ ' ' }}
{%- elif message['role'] == 'assistant' %}ASSISTANT:{{ ' ' }}{% endif %}
{%- for part in message['content'] %}{% if part['type'] == 'image' %}<image>
{% else %}{{ part['text'] }}{% endif %}{% endfor %}
{%- if message['role'] == 'assistant' %}</s>{% else %}{{ ' ' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}ASSISTANT:{% endif %}"""
"""What LLaVA 1.5 was trained on. Its published template has a blank for `</s>`."""


def llava() -> Built:
    words = llava_tokenizer()
    size = {"height": 56, "width": 56}
    processor = hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=size),
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA,
    )
    return hf.LlavaConfig(
        text_config=text(words, model_type="llama"),
        vision_config=VISION | {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14},
        image_token_index=words.convert_tokens_to_ids("<image>"),
    ), processor


BEGINS, ENDS, PADS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<▁pad▁>"
JANUS = """{% for message in messages %}{% if message['role'] == 'user' %}<|User|>:{{ ' ' }}
{%- elif message['role'] == 'assistant' %}<|Assistant|>:{{ ' ' }}{% else %}System:{{ ' ' }}{% endif %}
{%- for part in message['content'] %}{% if part['type'] == 'image' %}<image_placeholder>
{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}
{%- if message['role'] == 'user' %}{{ '\\n\\n' }}{% else %}ENDS{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|Assistant|>:{% endif %}""".replace("ENDS", ENDS)
"""What Janus' template writes."""
DEEPSEEK = BEGINS + JANUS.replace("System:{{ ' ' }}", "").replace(
    "== 'user' %}{{ '\\n", "!= 'assistant' %}{{ '\\n"
)
DEEPSEEK = DEEPSEEK.replace("<|User|>", "User").replace("<|Assistant|>", "Assistant")
"""What DeepSeek-VL's template writes."""


def janus() -> Built:
    names = {"image_token": "<image_placeholder>"}
    names |= {"boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer(
        [BEGINS, ENDS, PADS, "<|User|>", "<|Assistant|>", *names.values()],
        eos_token=ENDS,
        pad_token=PADS,
        bos_token=BEGINS,
        extra_special_tokens=names,
    )
    images = JanusImageProcessor(size={"height": 64, "width": 64}, min_size=14)
    processor = hf.JanusProcessor(
        image_processor=images, tokenizer=words, num_image_tokens=16, chat_template=JANUS
    )
    vision = VISION | {"image_size": 64, "mlp_ratio": 2, "projection_dim": 64, "num_image_tokens": 16}
    codes = {"embed_dim": 8, "num_embeddings": 32, "latent_channels": 32, "base_channels": 32}
    codes |= {"channel_multiplier": [1, 1], "num_res_blocks": 1, "num_patches": 4}
    return hf.JanusConfig(
        text_config=text(words, model_type="llama"),
        vision_config=vision,
        vq_config=codes | {"projection_dim": 64, "image_token_embed_dim": 64},
        image_token_id=words.convert_tokens_to_ids("<image_placeholder>"),
    ), processor


def deepseek_vl() -> Built:
    words = tokenizer(
        [BEGINS, ENDS, PADS, "<image_placeholder>"],
        eos_token=ENDS,
        pad_token=PADS,
        bos_token=BEGINS,
        extra_special_tokens={"image_token": "<image_placeholder>"},
    )
    processor = hf.DeepseekVLProcessor(
        image_processor=DeepseekVLImageProcessor(size={"height": 64, "width": 64}, min_size=14),
        tokenizer=words,
        num_image_tokens=16,
        chat_template=DEEPSEEK,
    )
    return hf.DeepseekVLConfig(
        text_config=text(words, model_type="llama"),
        vision_config=VISION | {"model_type": "siglip_vision_model", "image_size": 64, "patch_size": 16},
        image_token_id=words.convert_tokens_to_ids("<image_placeholder>"),
    ), processor


GLM_MOE = """[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>
{% if message['role'] == 'assistant' %}<think></think>
{% endif %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<|begin_of_image|><|image|>
{#- #}<|end_of_image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}
{%- if message['role'] == 'user' %}/nothink{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>
<think></think>
{% endif %}"""
"""What GLM-4.5V's template writes without reasoning, if answers have none: it drops that of past answers."""


def glm4v_moe() -> Built:
    dense, processor = glm4v()
    processor.chat_template = GLM_MOE
    ids = {name: value for name, value in dense.to_dict().items() if name.endswith("_token_id")}
    said = dense.text_config.to_dict() | {"model_type": "glm4v_moe_text", "moe_intermediate_size": 32}
    said |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
    vision = dense.vision_config.to_dict() | {"model_type": "glm4v_moe_vision"}
    return hf.Glm4vMoeConfig(text_config=said, vision_config=vision, **ids), processor


def lighton_ocr() -> Built:
    names = {"image_token": "<|image_pad|>", "image_break_token": "<|vision_pad|>"}
    names |= {"image_end_token": "<|vision_end|>"}
    words = tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *names.values()],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=names,
    )
    processor = hf.LightOnOcrProcessor(
        image_processor=PixtralImageProcessor(size={"longest_edge": 112}, patch_size=14),
        tokenizer=words,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=chat("", "<|im_start|>ROLE\n", "<|im_end|>\n", "<|image_pad|>"),
    )
    return hf.LightOnOcrConfig(
        text_config=text(words, model_type="qwen3", head_dim=16, sliding_window=None),
        vision_config=VISION | {"model_type": "pixtral", "image_size": 112, "patch_size": 14, "head_dim": 32},
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
    ), processor


TRIED: dict[str, Callable[[], Built]] = {
    "kimi_k25": kimi_k25,
    "paddleocr_vl": paddleocr_vl,
    "llava": llava,
    "janus": janus,
    "deepseek_vl": deepseek_vl,
    "glm4v_moe": glm4v_moe,
    "lighton_ocr": lighton_ocr,
}
