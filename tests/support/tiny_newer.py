"""Tiny models of the families that came last to transformers. Their templates write what the published ones
write, or what docs/explanation/students.md says is to be given instead."""

from __future__ import annotations

from collections.abc import Callable

import transformers as hf
from transformers.models.cohere_compass import CohereCompassImageProcessor
from transformers.models.ernie4_5_vl_moe import Ernie4_5_VLMoeImageProcessor, Ernie4_5_VLMoeVideoProcessor
from transformers.models.gemma4_unified import Gemma4UnifiedImageProcessor
from transformers.models.glm46v import Glm46VImageProcessor
from transformers.models.hunyuan_vl import HunYuanVLImageProcessor
from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from tiny_further import GLM, gemma4, glm4v
from tiny_others import COHERE_OPENING, COHERE_ROLES, chat
from tiny_parts import ROPE, VISION, Built, template, text, tokenizer
from tiny_tried import PADDLE

PICTURES = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
ROLE, END = "<|im_start|>ROLE\n", "<|im_end|>\n"
SHOWN = "<|vision_start|><|image_pad|><|vision_end|>"
TOWER = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "spatial_merge_size": 2}
"""Sizes of a vision tower like Qwen's."""
SMALL = {patch: {"shortest_edge": 4 * patch**2, "longest_edge": 24 * patch**2} for patch in (14, 16)}
"""Sizes of pictures, by that of a patch."""


def ids_of(words: hf.PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, words.convert_tokens_to_ids(PICTURES), strict=True))


def lfm3_vl() -> Built:
    """Convolutions and a sliding window, in the vision tower too."""
    words = tokenizer(
        ["<|pad|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>", *PICTURES],
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        bos_token="<|startoftext|>",
    )
    processor = hf.Lfm3VlProcessor(
        image_processor=Qwen2VLImageProcessor(size=SMALL[16], patch_size=16),
        tokenizer=words,
        video_processor=hf.Qwen3VLVideoProcessor(),
        chat_template=chat("<|startoftext|>", ROLE, END, SHOWN),
    )
    layers = ["conv", "sliding_attention", "full_attention"]
    said = text(words, model_type="lfm3", head_dim=16, sliding_window=64, layer_types=layers)
    vision = VISION | {"num_key_value_heads": 2, "patch_size": 16, "layer_types": ["conv", "full_attention"]}
    return hf.Lfm3VlConfig(
        text_config=said | {"num_hidden_layers": 3},
        vision_config=vision,
        projector_hidden_size=64,
        **ids_of(words),
    ), processor


def qwen4_exp() -> Built:
    """Several streams of residuals, embeddings of n-grams, attention to chosen tokens, experts."""
    words = tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *PICTURES],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    words.add_tokens(["<think>", "</think>"])
    processor = hf.Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=SMALL[16], patch_size=16),
        tokenizer=words,
        video_processor=hf.Qwen3VLVideoProcessor(),
        chat_template=template("qwen3_5_nothink"),
    )
    rope = ROPE | {"mrope_interleaved": True, "partial_rotary_factor": 1.0}
    said = text(words, head_dim=16, rope_parameters=rope, hc_count=2, hc_lowrank=8)
    said |= {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2}
    said |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_value_heads": 4}
    said |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    said |= {"shared_expert_intermediate_size": 32, "ple_layer_ids": [1], "heads_per_ngram": 2}
    said |= {"ngram_vocab_size_base": 500, "split_ngram_parts": 4, "indexer_n_heads": 2}
    said |= {"indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 64, "indexer_compress_ratio": 4}
    return hf.Qwen4ExpConfig(
        text_config=said,
        vision_config=TOWER | {"out_hidden_size": 64, "patch_size": 16, "num_position_embeddings": 64},
        **ids_of(words),
    ), processor


EXAONE = """{% for message in messages %}<|{{ message['role'] }}|>
{% if message['role'] == 'assistant' %}<think>

</think>

{% endif %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<vision><|image_pad|></vision>
{#- #}{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|endofturn|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
<think>

</think>

{% endif %}"""
"""What EXAONE 4.5's template writes without reasoning, if past answers had the empty one too."""


def exaone4_5() -> Built:
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|endofturn|>"]
    words = tokenizer(
        ["[PAD]", *roles, "<vision>", "</vision>", "<|image_pad|>", "<|video_pad|>"],
        eos_token="<|endofturn|>",
        pad_token="[PAD]",
    )
    words.add_tokens(["<think>", "</think>"])
    processor = hf.Exaone4_5_Processor(
        image_processor=Qwen2VLImageProcessor(size=SMALL[14], patch_size=14),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=EXAONE,
    )
    layers = ["sliding_attention", "full_attention"]
    vision = TOWER | {"out_hidden_size": 64, "patch_size": 14, "window_size": 56, "num_key_value_heads": 1}
    return hf.Exaone4_5_Config(
        text_config=text(words, model_type="exaone4", sliding_window=64, layer_types=layers),
        vision_config=vision | {"fullatt_block_indexes": [1]},
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
    ), processor


def hyperclovax_vision_v2() -> Built:
    """Multiplies its logits by `logits_scaling`, by which Granite divides them."""
    words = tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *PICTURES, "<|image_start|>", "<|image_end|>"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    processor = hf.HyperCLOVAXVisionV2Processor(
        image_processor=Qwen2VLImageProcessor(size=SMALL[14], patch_size=14),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=chat("", ROLE, END, "<|image_start|><|image_pad|><|image_end|>"),
    )
    said = text(words, model_type="hyperclovax", head_dim=16, logits_scaling=0.5, residual_multiplier=0.7)
    return hf.HyperCLOVAXVisionV2Config(
        text_config=said | {"embedding_multiplier": 2.0},
        vision_config=TOWER | {"out_hidden_size": 64, "patch_size": 14, "fullatt_block_indexes": [1]},
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
        tie_word_embeddings=False,
    ), processor


def glm46v() -> Built:
    dense, older = glm4v()
    processor = hf.Glm46VProcessor(
        image_processor=Glm46VImageProcessor(size=SMALL[14], patch_size=14),
        tokenizer=older.tokenizer,
        video_processor=hf.Glm46VVideoProcessor(),
        chat_template=GLM.replace("<|assistant|>\n", "<|assistant|>\n<think></think>\n"),
    )
    ids = {name: value for name, value in dense.to_dict().items() if name.endswith("_token_id")}
    said, vision = dense.text_config.to_dict(), dense.vision_config.to_dict()
    return hf.Glm46VConfig(text_config=said, vision_config=vision, **ids), processor


def gemma4_unified() -> Built:
    """Gemma 4 12B. It has no vision tower: patches are projected."""
    _, older = gemma4()
    words, sizes = older.tokenizer, {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 3}
    processor = hf.Gemma4UnifiedProcessor(
        feature_extractor=hf.Gemma4UnifiedAudioFeatureExtractor(),
        image_processor=Gemma4UnifiedImageProcessor(**sizes),
        tokenizer=words,
        video_processor=hf.Gemma4UnifiedVideoProcessor(**sizes),
        image_seq_length=70,
        chat_template=older.chat_template,
    )
    layers = ["sliding_attention", "full_attention"]
    names = ("boi", "eoi", "image", "video", "audio")
    marks = ("<|image>", "<image|>", "<|image|>", "<|video|>", "<|audio|>")
    ids = zip(names, words.convert_tokens_to_ids(marks), strict=True)
    said = text(words, head_dim=16, layer_types=layers, sliding_window=512, global_head_dim=16)
    vision = {"patch_size": 4, "pooling_kernel_size": 3, "mm_embed_dim": 64, "mm_posemb_size": 64}
    return hf.Gemma4UnifiedConfig(
        text_config=said,
        vision_config=vision | {"output_proj_dims": 64},
        audio_config=None,
        **{f"{name}_token_id": number for name, number in ids},
    ), processor


def cohere_compass() -> Built:
    """North Micro Vision. Every other layer has no positions."""
    pictures = [token.upper() for token in PICTURES]
    words = tokenizer(
        [
            "<PAD>",
            "<BOS_TOKEN>",
            "<|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|>",
            *COHERE_ROLES,
            *pictures,
        ],
        eos_token="<|END_OF_TURN_TOKEN|>",
        pad_token="<PAD>",
        bos_token="<BOS_TOKEN>",
    )
    processor = hf.CohereCompassProcessor(
        image_processor=CohereCompassImageProcessor(size=SMALL[16], patch_size=16),
        tokenizer=words,
        video_processor=hf.CohereCompassVideoProcessor(),
        chat_template=chat("<BOS_TOKEN>", COHERE_OPENING, "<|END_OF_TURN_TOKEN|>", SHOWN.upper()),
    )
    rope = {"sliding_attention": ROPE | {"mrope_interleaved": True}, "full_attention": None}
    said = text(words, logit_scale=0.25, rope_parameters=rope, sliding_window=512)
    start, end, image, video = words.convert_tokens_to_ids(pictures)
    vision = TOWER | {"out_hidden_size": 64, "patch_size": 16, "num_position_embeddings": 64}
    return hf.CohereCompassConfig(
        text_config=said | {"layer_types": ["sliding_attention", "full_attention"]},
        vision_config=vision | {"deepstack_visual_indexes": [0, 1]},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
    ), processor


ERNIE = PADDLE.replace("Assistant:\n", "Assistant:\n<think>\n\n</think>\n").replace(
    "</s>", "<|end_of_sentence|>"
)
"""What ERNIE 4.5 VL's template writes without reasoning and without the numbers of pictures."""


def ernie4_5_vl_moe() -> Built:
    """Each token has a type by which its experts are chosen, beside that of its positions."""
    names = {f"{kind}_token": f"<|{kind.upper()}_PLACEHOLDER|>" for kind in ("image", "video")}
    for kind in ("image", "video"):
        names |= {f"{kind}_{end}_token": f"<|{kind}_{end}|>".upper() for end in ("start", "end")}
    words = tokenizer(
        ["<unk>", "<|begin_of_sentence|>", "<|end_of_sentence|>", *names.values()],
        eos_token="<|end_of_sentence|>",
        pad_token="<unk>",
        extra_special_tokens=names,
    )
    words.add_tokens(["<think>", "</think>"])
    processor = hf.Ernie4_5_VLMoeProcessor(
        image_processor=Ernie4_5_VLMoeImageProcessor(size=SMALL[14], patch_size=14),
        video_processor=Ernie4_5_VLMoeVideoProcessor(draw_on_frames=False),
        tokenizer=words,
        chat_template=ERNIE,
    )
    said = text(words, rope_parameters=ROPE | {"mrope_section": [3, 3, 2]}, moe_intermediate_size=[32, 16])
    return hf.Ernie4_5_VLMoeConfig(
        text_config=said | {"num_hidden_layers": 3, "moe_k": 2, "moe_num_experts": 4},
        vision_config=TOWER | {"patch_size": 14},
        **{f"{name}_id": words.convert_tokens_to_ids(token) for name, token in names.items()},
    ), processor


HUNYUAN = """{% for message in messages %}{% if loop.first %}<｜hy_begin｜>{% endif %}
{%- for part in message['content'] %}{% if part['type'] == 'image' %}<｜hy_start｜><｜hy_image｜><｜hy_end｜>
{#- #}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% if message['role'] == 'system' %}<｜hy_system｜>
{#- #}{% elif message['role'] == 'user' %}<｜hy_User｜>{% else %}<｜hy_Assistant｜>{% endif %}{% endfor %}"""
"""What HunyuanOCR's template writes, with shorter names of its tokens."""


def hunyuan_vl() -> Built:
    """It counts the pictures of a whole batch."""
    names = {"image_start_token": "<｜hy_start｜>", "image_end_token": "<｜hy_end｜>"}
    names |= {"image_token": "<｜hy_image｜>"}
    turns = ["<｜hy_pad｜>", "<｜hy_begin｜>", "<｜hy_system｜>", "<｜hy_User｜>", "<｜hy_Assistant｜>"]
    words = tokenizer(
        [*turns, *names.values()],
        eos_token="<｜hy_Assistant｜>",
        pad_token="<｜hy_pad｜>",
        extra_special_tokens=names,
    )
    processor = hf.HunYuanVLProcessor(
        image_processor=HunYuanVLImageProcessor(size=SMALL[16], patch_size=16),
        tokenizer=words,
        chat_template=HUNYUAN,
    )
    start, end, image = words.convert_tokens_to_ids(list(names.values()))
    return hf.HunYuanVLConfig(
        text_config=text(words, head_dim=16, rope_parameters=ROPE | {"mrope_section": [2, 2, 2, 2]}),
        vision_config=VISION | {"patch_size": 16, "out_hidden_size": 64, "max_image_size": 256},
        image_token_id=image,
        im_start_id=start,
        im_end_id=end,
    ), processor


NEWER: dict[str, Callable[[], Built]] = {
    "lfm3_vl": lfm3_vl,
    "qwen4_exp": qwen4_exp,
    "exaone4_5": exaone4_5,
    "hyperclovax_vision_v2": hyperclovax_vision_v2,
    "glm46v": glm46v,
    "gemma4_unified": gemma4_unified,
    "cohere_compass": cohere_compass,
}
"""Those that are trained."""
LOST: dict[str, Callable[[], Built]] = {"ernie4_5_vl_moe": ernie4_5_vl_moe, "hunyuan_vl": hunyuan_vl}
"""Those that are not."""
