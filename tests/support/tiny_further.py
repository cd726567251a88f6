"""Tiny models of further families. Chat templates that TRL does not ship are written here as short as can be:
they write what the published ones write for a dialogue with pictures."""

from __future__ import annotations

import transformers as hf
from transformers.models.gemma4 import Gemma4ImageProcessor
from transformers.models.glm4v import Glm4vImageProcessor
from transformers.models.idefics2 import Idefics2ImageProcessor
from transformers.models.pixtral import PixtralImageProcessor

from tiny_parts import VISION, Built, template, text, tokenizer


def gemma4() -> Built:
    """Its template cuts `<|channel>...<channel|>` out of past answers."""
    names = {
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "image_token": "<|image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "soc_token": "<|channel>",
        "eoc_token": "<channel|>",
        "think_token": "<|think|>",
    }
    specials = ["<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", *names.values()]
    words = tokenizer(
        specials, True, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>", extra_special_tokens=names
    )
    processor = hf.Gemma4Processor(
        feature_extractor=hf.Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=3),
        tokenizer=words,
        video_processor=hf.Gemma4VideoProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=3),
        image_seq_length=70,
        chat_template=template("gemma4_v5"),
    )
    number = words.convert_tokens_to_ids
    layers = ["sliding_attention", "full_attention"]
    said = text(words, head_dim=16, layer_types=layers, sliding_window=512, hidden_size_per_layer_input=0)
    said |= {"global_head_dim": 16, "vocab_size_per_layer_input": len(words)}
    vision = VISION | {"num_key_value_heads": 2, "head_dim": 32, "patch_size": 4, "pooling_kernel_size": 3}
    return hf.Gemma4Config(
        text_config=said,
        vision_config=vision | {"position_embedding_size": 64},
        audio_config=None,
        boi_token_id=number("<|image>"),
        eoi_token_id=number("<image|>"),
        image_token_id=number("<|image|>"),
        video_token_id=number("<|video|>"),
        audio_token_id=number("<|audio|>"),
    ), processor


MISTRAL = """{{ bos_token }}{% for message in messages %}
{%- if message['role'] == 'system' %}[SYSTEM_PROMPT]{{ message['content'] if message['content'] is string
    else message['content'][0]['text'] }}[/SYSTEM_PROMPT]
{%- elif message['role'] == 'user' %}[INST]{% if message['content'] is string %}{{ message['content'] }}
{%- else %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}
{%- else %}[IMG]{% endif %}{% endfor %}{% endif %}[/INST]
{%- else %}{% if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] %}{% if part['type'] == 'thinking' %}[THINK]{{ part['thinking'] }}[/THINK]
{%- else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ eos_token }}{% endif %}{% endfor %}"""
"""What Mistral Small 3's template and its successors' write."""


def mistral3() -> Built:
    specials = ["<pad>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    specials += ["[THINK]", "[/THINK]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    words = tokenizer(specials, eos_token="</s>", pad_token="<pad>", bos_token="<s>")
    size = {"longest_edge": 112}
    processor = hf.PixtralProcessor(
        image_processor=PixtralImageProcessor(size=size, patch_size={"height": 14, "width": 14}),
        tokenizer=words,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=MISTRAL,
    )
    return hf.Mistral3Config(
        text_config=text(words, model_type="mistral", head_dim=16, sliding_window=None),
        vision_config=VISION | {"model_type": "pixtral", "image_size": 112, "patch_size": 14, "head_dim": 32},
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    ), processor


GLM = """[gMASK]<sop>{% for message in messages %}{% if message['role'] == 'user' %}<|user|>
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}
{%- if part['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>{% else %}{{ part['text'] }}
{%- endif %}{% endfor %}{% endif %}{% elif message['role'] == 'system' %}<|system|>
{{ message['content'] if message['content'] is string else message['content'][0]['text'] }}
{%- else %}<|assistant|>
{{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""
"""What GLM-4.1V's template writes. It takes an answer as a string, and the next turn ends it."""


def glm4v() -> Built:
    pictures = ["<|begin_of_image|>", "<|end_of_image|>", "<|image|>"]
    pictures += ["<|begin_of_video|>", "<|end_of_video|>", "<|video|>"]
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    words = tokenizer(
        ["<|endoftext|>", "[gMASK]", "<sop>", *roles, *pictures],
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    words.add_tokens(["<think>", "</think>", "<answer>", "</answer>"])
    size = {"shortest_edge": 4 * 14**2, "longest_edge": 48 * 14**2}
    processor = hf.Glm4vProcessor(
        image_processor=Glm4vImageProcessor(size=size, patch_size=14),
        tokenizer=words,
        video_processor=hf.Glm4vVideoProcessor(),
        chat_template=GLM,
    )
    number = words.convert_tokens_to_ids
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10_000.0}
    rope |= {"partial_rotary_factor": 0.5}
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "patch_size": 14}
    vision |= {"image_size": 112, "out_hidden_size": 64}
    return hf.Glm4vConfig(
        text_config=text(words, rope_parameters=rope),
        vision_config=vision,
        image_token_id=number("<|image|>"),
        video_token_id=number("<|video|>"),
        image_start_token_id=number("<|begin_of_image|>"),
        image_end_token_id=number("<|end_of_image|>"),
        video_start_token_id=number("<|begin_of_video|>"),
        video_end_token_id=number("<|end_of_video|>"),
    ), processor


IDEFICS2 = """{% for message in messages %}{{ message['role'].capitalize() }}
{%- if message['content'][0]['type'] == 'image' %}:{% else %}{{ ': ' }}{% endif %}
{%- for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>
{%- endif %}{% endfor %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""
"""What Idefics2's template writes."""


def idefics2() -> Built:
    """Each row of a batch has as many pictures as the largest, filled up to its largest picture."""
    specials = ["<pad>", "<s>", "</s>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    words = tokenizer(specials, True, eos_token="</s>", pad_token="<pad>", bos_token="<s>")
    processor = hf.Idefics2Processor(
        image_processor=Idefics2ImageProcessor(
            size={"shortest_edge": 42, "longest_edge": 112}, do_image_splitting=False
        ),
        tokenizer=words,
        image_seq_len=4,
        chat_template=IDEFICS2,
    )
    return hf.Idefics2Config(
        text_config=text(words, model_type="mistral", head_dim=16, sliding_window=None),
        vision_config=VISION | {"image_size": 112, "patch_size": 14},
        perceiver_config={
            "hidden_size": 64,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 32,
            "num_key_value_heads": 2,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
    ), processor


FASTVLM = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>
{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""What FastVLM's template writes."""


def fast_vlm(tower: str = "resnet") -> Built:
    """A convolutional vision tower with batch statistics: ResNet instead of timm's FastViT."""
    words = tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<image>"},
    )
    size = {"height": 64, "width": 64}
    processor = hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False),
        tokenizer=words,
        patch_size=16,
        vision_feature_select_strategy="full",
        chat_template=FASTVLM,
    )
    vision = {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
    vision |= {"hidden_size": 32, "downsample_in_first_stage": True, "layer_type": "basic"}
    return hf.FastVlmConfig(
        text_config=text(words, model_type="qwen2"),
        vision_config=vision if tower == "resnet" else {"model_type": tower},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        tie_word_embeddings=True,
    ), processor
