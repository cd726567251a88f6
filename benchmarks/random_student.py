"""A Qwen2.5-VL with random weights, in the sizes of the published 3B or tiny: nothing is downloaded.

Speed and memory do not depend on the weights. The tokenizer has Qwen's number of tokens and its special ones,
but no merges: every byte of a text is a token.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safer_steer.sandbox.train_base import TEMPLATE

SPECIALS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
]
PUBLISHED: dict[str, Any] = {
    "words": 151_643,
    "text": {
        **{"vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36},
        **{"num_attention_heads": 16, "num_key_value_heads": 2, "max_position_embeddings": 128_000},
    },
    "rope": [16, 24, 24],
    "vision": {
        **{"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
        **{"out_hidden_size": 2048, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]},
    },
}
"""The 3B: 3.75 billion parameters."""
TINY: dict[str, Any] = {
    "words": 1000,
    "text": {
        **{"vocab_size": 1014, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096},
    },
    "rope": [4, 6, 6],
    "vision": {
        **{"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2},
        **{"out_hidden_size": 64, "window_size": 112, "fullatt_block_indexes": [1]},
    },
}


def build(folder: Path, sizes: dict[str, Any], dtype: str, device: str) -> Path:
    """Write model and processor to `folder`, unless they are there; returns it."""
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig, set_seed

    if folder.exists():
        return folder
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    processor, config = _processor(sizes["words"]), _config(sizes)
    set_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
    end, pad = config.text_config.eos_token_id, config.text_config.pad_token_id
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad)
    model.save_pretrained(part)
    processor.save_pretrained(part)
    part.rename(folder)
    return folder


def _processor(words: int) -> Any:
    """`words` tokens, the first 256 of them bytes, and then the special ones."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    vocabulary |= {f"\u0120w{number}": number for number in range(len(letters), words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIALS[1:],
        padding_side="left",
    )
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 1_003_520}),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    )


def _config(sizes: dict[str, Any]) -> Any:
    from transformers import Qwen2_5_VLConfig

    number = {token: sizes["words"] + place for place, token in enumerate(SPECIALS)}
    ends = {"eos_token_id": number["<|im_end|>"], "pad_token_id": number["<|endoftext|>"]}
    ends["bos_token_id"] = ends["pad_token_id"]
    rope = {"rope_type": "default", "mrope_section": sizes["rope"], "rope_theta": 1e6}
    return Qwen2_5_VLConfig(
        text_config={**sizes["text"], **ends, "tie_word_embeddings": True, "rope_parameters": rope},
        vision_config={
            **sizes["vision"],
            **{"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2},
        },
        image_token_id=number["<|image_pad|>"],
        video_token_id=number["<|video_pad|>"],
        vision_start_token_id=number["<|vision_start|>"],
        vision_end_token_id=number["<|vision_end|>"],
        tie_word_embeddings=True,
    )
