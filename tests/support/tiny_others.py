"""Tiny models of families outside the table of tests: refused, or tried in one step of SFT and GRPO. Their
templates write what the published ones write."""

from __future__ import annotations

from collections.abc import Callable

import transformers as hf
from transformers.models.chameleon import ChameleonImageProcessor
from transformers.models.cohere2_vision import Cohere2VisionImageProcessor
from transformers.models.got_ocr2 import GotOcr2ImageProcessor
from transformers.models.llama4 import Llama4ImageProcessor
from transformers.models.llava_next import LlavaNextImageProcessor
from transformers.models.llava_onevision import LlavaOnevisionImageProcessor
from transformers.models.minicpmv4_6 import MiniCPMV4_6ImageProcessor
from transformers.models.mllama import MllamaImageProcessor
from transformers.models.ovis2 import Ovis2ImageProcessor
from transformers.models.pixtral import PixtralImageProcessor
from transformers.models.step3p7 import Step3p7ImageProcessor

from tiny_further import FASTVLM
from tiny_parts import VISION, Built, text, tokenizer


def chat(begins: str, opening: str, closing: str, picture: str) -> str:
    """A template of messages in parts: `opening` has the role as ROLE."""
    opened = opening.replace("ROLE", "{{ message['role'] }}")
    answer = opening.replace("ROLE", "assistant")
    return (
        begins + "{% for message in messages %}" + opened + "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + picture + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        + closing + "{% endfor %}{% if add_generation_prompt %}" + answer + "{% endif %}"
    )  # fmt: skip


COHERE_ROLES = ["<|system_TOKEN|>", "<|user_TOKEN|>", "<|assistant_TOKEN|>"]
COHERE_OPENING = "<|START_OF_TURN_TOKEN|><|ROLE_TOKEN|>"


def aya_vision() -> Built:
    """TRL multiplies the logits by the config's `logit_scale`; the model does not."""
    specials = ["<PAD>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>"]
    specials += ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "<image>"]
    specials += ["TILE", "TILE_GLOBAL", *COHERE_ROLES]
    words = tokenizer(specials, eos_token="<|END_OF_TURN_TOKEN|>", pad_token="<PAD>", bos_token="<BOS_TOKEN>")
    size = {"height": 56, "width": 56}
    processor = hf.AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=4),
        tokenizer=words,
        patch_size=14,
        img_size=56,
        downsample_factor=2,
        chat_template=chat("<BOS_TOKEN>", COHERE_OPENING, "<|END_OF_TURN_TOKEN|>", "<image>"),
    )
    said = text(words, model_type="cohere2", sliding_window=512, logit_scale=0.25)
    said |= {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 16}
    return hf.AyaVisionConfig(
        text_config=said,
        vision_config=VISION | {"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14},
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
    ), processor


def cohere2_vision() -> Built:
    """As Aya Vision, for which it is the successor."""
    names = {
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "image_token": "<|IMG_PATCH|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    specials = ["<PAD>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>", *COHERE_ROLES]
    specials += names.values()
    words = tokenizer(
        specials,
        eos_token="<|END_OF_TURN_TOKEN|>",
        pad_token="<PAD>",
        bos_token="<BOS_TOKEN>",
        extra_special_tokens=names,
    )
    size = {"height": 56, "width": 56}
    opening, end = COHERE_OPENING, "<|END_OF_TURN_TOKEN|>"
    processor = hf.Cohere2VisionProcessor(
        image_processor=Cohere2VisionImageProcessor(size=size, max_patches=4, patch_size=2),
        tokenizer=words,
        chat_template=chat("<BOS_TOKEN>", opening, end, "<|IMG_PATCH|>"),
    )
    said = text(words, model_type="cohere2", sliding_window=512, logit_scale=0.25)
    said |= {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 16}
    return hf.Cohere2VisionConfig(
        text_config=said,
        vision_config=VISION | {"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14},
        image_token_id=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        alignment_intermediate_size=64,
    ), processor


def llama4() -> Built:
    """Its processor makes bfloat16 pixels, its router is a subclass of a linear layer, and TRL finds no base
    model in it."""
    specials = [
        "<|finetune_right_pad|>",
        "<|begin_of_text|>",
        "<|eot|>",
        "<|header_start|>",
        "<|header_end|>",
    ]
    specials += ["<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>"]
    specials += ["<|tile_x_separator|>", "<|tile_y_separator|>"]
    words = tokenizer(
        specials, eos_token="<|eot|>", pad_token="<|finetune_right_pad|>", bos_token="<|begin_of_text|>"
    )
    opening = "<|header_start|>ROLE<|header_end|>\n\n"
    processor = hf.Llama4Processor(
        image_processor=Llama4ImageProcessor(size={"height": 56, "width": 56}, max_patches=2),
        tokenizer=words,
        patch_size=14,
        pixel_shuffle_ratio=0.5,
        chat_template=chat("<|begin_of_text|>", opening, "<|eot|>", "<|image|>"),
    )
    said = text(words, intermediate_size_mlp=128, num_local_experts=2, num_experts_per_tok=1, head_dim=16)
    said |= {"attention_chunk_size": 512, "moe_layers": [1], "bos_token_id": 1}
    vision = VISION | {"image_size": 56, "patch_size": 14, "vision_output_dim": 64, "intermediate_size": 256}
    return hf.Llama4Config(
        text_config=said,
        vision_config=vision | {"projector_input_dim": 64, "projector_output_dim": 64},
        image_token_index=words.convert_tokens_to_ids("<|patch|>"),
    ), processor


PIXTRAL = """{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}
{%- set talk = messages[1:] %}{% else %}{% set talk = messages %}{% endif %}{{ bos_token }}
{%- for message in talk %}{% if message['role'] == 'user' %}
{%- if loop.last and system is defined %}[INST]{{ system }}

{% else %}[INST]{% endif %}{% if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] %}{% if part['type'] == 'image' %}[IMG]{% else %}{{ part['text'] }}
{%- endif %}{% endfor %}{% endif %}[/INST]{% else %}{{ message['content'] + eos_token }}{% endif %}
{%- endfor %}"""
"""What Pixtral's template writes: answers are strings, and the system message is in the last user turn."""


def pixtral() -> Built:
    specials = ["<pad>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    words = tokenizer(specials, eos_token="</s>", pad_token="<pad>", bos_token="<s>")
    size = {"longest_edge": 112}
    processor = hf.PixtralProcessor(
        image_processor=PixtralImageProcessor(size=size, patch_size={"height": 14, "width": 14}),
        tokenizer=words,
        patch_size=14,
        chat_template=PIXTRAL,
    )
    return hf.LlavaConfig(
        text_config=text(words, model_type="mistral", head_dim=16, sliding_window=None),
        vision_config=VISION | {"model_type": "pixtral", "image_size": 112, "patch_size": 14, "head_dim": 32},
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    ), processor


def llava_onevision() -> Built:
    """A picture has other tokens where a dialogue shows several."""
    words = tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    grids = [[56, 112], [112, 56], [112, 112]]
    size = {"height": 56, "width": 56}
    processor = hf.LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grids),
        tokenizer=words,
        video_processor=hf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=FASTVLM,
    )
    return hf.LlavaOnevisionConfig(
        text_config=text(words, model_type="qwen2"),
        vision_config=VISION | {"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
        tie_word_embeddings=True,
    ), processor


def mllama() -> Built:
    """Llama 3.2 Vision. Its processor begins every text with the token that begins a text."""
    specials = ["<|finetune_right_pad_id|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>"]
    specials += ["<|end_header_id|>", "<|image|>", "<|python_tag|>"]
    words = tokenizer(
        specials, eos_token="<|eot_id|>", pad_token="<|finetune_right_pad_id|>", bos_token="<|begin_of_text|>"
    )
    opening = "<|start_header_id|>ROLE<|end_header_id|>\n\n"
    processor = hf.MllamaProcessor(
        image_processor=MllamaImageProcessor(size={"height": 56, "width": 56}, max_image_tiles=2),
        tokenizer=words,
        chat_template=chat("<|begin_of_text|>", opening, "<|eot_id|>", "<|image|>"),
    )
    return hf.MllamaConfig(
        text_config=text(words, cross_attention_layers=[1]),
        vision_config={
            "hidden_size": 64,
            "attention_heads": 2,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "intermediate_size": 128,
            "image_size": 56,
            "patch_size": 14,
            "max_num_tiles": 2,
            "vision_output_dim": 128,
            "intermediate_layers_indices": [1],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
    ), processor


def minicpmv() -> Built:
    """MiniCPM-V 4.6 numbers the pictures of a text."""
    names = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    words = tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *names.values()],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=names,
    )
    images = MiniCPMV4_6ImageProcessor(scale_resolution=112, patch_size=14, slice_mode=False)
    processor = hf.MiniCPMV4_6Processor(
        image_processor=images,
        video_processor=hf.MiniCPMV4_6VideoProcessor(),
        tokenizer=words,
        chat_template=FASTVLM.replace("<image>", "<|image_pad|>"),
    )
    return hf.MiniCPMV4_6Config(
        text_config=text(words, model_type="qwen2"),
        vision_config=VISION | {"image_size": 112, "patch_size": 14, "insert_layer_id": 0},
        insert_layer_id=0,
        image_size=112,
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
    ), processor


def ovis2() -> Built:
    """The tokens around a picture are embedded by the vision tower, too."""
    around = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    words = tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<IMG_ATOM>", *around],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    size = {"height": 56, "width": 56}
    processor = hf.Ovis2Processor(
        image_processor=Ovis2ImageProcessor(size=size, crop_to_patches=True, max_patches=3),
        tokenizer=words,
        image_seq_length=16,
        chat_template=FASTVLM,
    )
    vision = VISION | {"image_size": 56, "patch_size": 14, "vocab_size": 64, "hidden_stride": 1}
    return hf.Ovis2Config(
        text_config=text(words, model_type="qwen2"),
        vision_config=vision,
        image_token_id=words.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=words.convert_tokens_to_ids(around),
        vocab_size=len(words),
        hidden_size=64,
    ), processor


def granite4_vision() -> Built:
    """Scales its logits, has dropout in its projector, and feeds pictures into several layers."""
    words = tokenizer(
        ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<image>"],
        eos_token="<|end_of_text|>",
        pad_token="<|end_of_text|>",
    )
    size, grids = {"height": 64, "width": 64}, [[64, 128], [128, 64]]
    images = LlavaNextImageProcessor(size={"shortest_edge": 64}, crop_size=size, image_grid_pinpoints=grids)
    opening, end = "<|start_of_role|>ROLE<|end_of_role|>", "<|end_of_text|>"
    processor = hf.Granite4VisionProcessor(
        image_processor=images,
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="full",
        downsample_rate="1/2",
        chat_template=chat("", opening, end, "<image>"),
    )
    return hf.Granite4VisionConfig(
        text_config=text(words, logits_scaling=4.0, embedding_multiplier=2.0),
        vision_config=VISION | {"model_type": "siglip_vision_model", "image_size": 64, "patch_size": 8},
        qformer_config={"num_hidden_layers": 1, "intermediate_size": 64},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        image_grid_pinpoints=grids,
        image_seq_length=16,
        downsample_rate="4/8",
        deepstack_layer_map=[[-1, 0]],
        spatial_target_layers=[0, 0, 1, 1],
    ), processor


def step3p7() -> Built:
    """Step 3.7. Elongated pictures have local patches beside the whole, others have none."""
    patches = ["<im_patch>", "<im_start>", "<im_end>", "<patch_start>", "<patch_end>", "<patch_newline>"]
    words = tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *patches],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    size = {"height": 112, "width": 112}
    processor = hf.Step3p7Processor(
        image_processor=Step3p7ImageProcessor(size=size, patch_size=56, vision_patch_size=7),
        tokenizer=words,
        chat_template=chat("", "<|im_start|>ROLE\n", "<|im_end|>\n", "<im_patch>"),
    )
    said = text(words, head_dim=16, sliding_window=512, n_routed_experts=4, num_local_experts=4)
    said |= {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "share_expert_dim": 32}
    said |= {"mlp_layer_types": ["dense", "sparse"], "layer_types": ["sliding_attention", "full_attention"]}
    vision = VISION | {"image_size": 112, "patch_size": 7, "mlp_ratio": 2.0}
    return hf.Step3p7Config(
        text_config=said,
        vision_config=vision | {"max_position_embeddings": 256},
        image_token_id=words.convert_tokens_to_ids("<im_patch>"),
    ), processor


def paligemma() -> Built:
    """Its processor takes no text without a picture. It comes without a template."""
    specials = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    words = tokenizer(specials, True, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>")
    images = hf.SiglipImageProcessor(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    opening, closing = "<start_of_turn>ROLE\n", "<end_of_turn>\n"
    processor = hf.PaliGemmaProcessor(
        image_processor=images, tokenizer=words, chat_template=chat("", opening, closing, "<image>")
    )
    return hf.PaliGemmaConfig(
        text_config=text(words, model_type="gemma", head_dim=16),
        vision_config=VISION | {"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14},
        projection_dim=64,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    ), processor


def chameleon() -> Built:
    """Its processor ends every text with the token that ends a turn. It comes without a template."""
    end, codes = "<reserved08706>", [f"IMGIMG{letter}Z" for letter in "ABCDEFGHIJKLMNOP"]
    names = {"image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>"}
    words = tokenizer(
        ["<pad>", "<s>", "</s>", end, *names.values(), *codes],
        eos_token="</s>",
        pad_token="<pad>",
        bos_token="<s>",
        sep_token=end,
        extra_special_tokens=names,
    )
    size = {"height": 32, "width": 32}
    processor = hf.ChameleonProcessor(
        image_processor=ChameleonImageProcessor(size={"shortest_edge": 32}, crop_size=size),
        tokenizer=words,
        image_seq_length=16,
    )
    processor.chat_template = chat("", "", end, "<image>")
    vq = {"embed_dim": 16, "num_embeddings": 16, "latent_channels": 16, "resolution": 32}
    vq |= {"base_channels": 32, "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1}
    return hf.ChameleonConfig(**text(words), vq_config=vq, vocabulary_map=words.get_vocab()), processor


OTHERS: dict[str, Callable[[], Built]] = {
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
    "llama4": llama4,
    "pixtral": pixtral,
    "llava_onevision": llava_onevision,
    "mllama": mllama,
    "minicpmv": minicpmv,
    "ovis2": ovis2,
    "granite4_vision": granite4_vision,
    "step3p7": step3p7,
    "paligemma": paligemma,
    "chameleon": chameleon,
}
