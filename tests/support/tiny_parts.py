"""What tiny models of all families are made of: small tokenizers, sizes, chat templates as TRL ships them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers as hf
import trl
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
CORPUS = [
    "You are a helpful assistant. What is shown in the picture? Look again, please. And why?",
    "User: Assistant: system user assistant model\n\n It is a red box with a hazard mark.",
    "<thinking>The picture shows it.</thinking>\n<answer>I cannot help with that.</answer>",
]
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen splits text into words."""
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
Built = tuple[Any, Any]
"""A config and a processor."""


def template(name: str) -> str:
    """A family's chat template as TRL ships it."""
    return (TEMPLATES / f"{name}.jinja").read_text()


def tokenizer(specials: list[str], pieces: bool = False, **named: Any) -> hf.PreTrainedTokenizerFast:
    """A small tokenizer: of bytes as Qwen's, or of `pieces` with blanks as letters, as Gemma's."""
    inside = Tokenizer(models.BPE(byte_fallback=pieces, unk_token="<unk>" if pieces else None))
    if pieces:
        inside.normalizer = normalizers.Replace(" ", "▁")
        words = pre_tokenizers.Split("▁", "merged_with_next")
        lines = pre_tokenizers.Split(Regex("\\n+"), "isolated")
        inside.pre_tokenizer = pre_tokenizers.Sequence([words, lines])
        inside.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        first = [*specials, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        alphabet = [*map(chr, range(33, 127)), "▁", "\n"]
    else:
        words = pre_tokenizers.Split(Regex(WORDS), "isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inside.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
        inside.decoder = decoders.ByteLevel()
        first, alphabet = specials, pre_tokenizers.ByteLevel.alphabet()
    learnt = trainers.BpeTrainer(
        vocab_size=700, special_tokens=first, initial_alphabet=alphabet, show_progress=False
    )
    inside.train_from_iterator(CORPUS * 4, learnt)
    state = json.loads(inside.to_str())  # bytes are ordinary tokens
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in specials]
    inside = Tokenizer.from_str(json.dumps(state))
    if begins := named.get("bos_token"):
        start = (begins, inside.token_to_id(begins))
        inside.post_processor = processors.TemplateProcessing(single=f"{begins} $A", special_tokens=[start])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inside, padding_side="left", additional_special_tokens=specials, **named
    )


def text(words: hf.PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    """The config of a language model of two layers."""
    return {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": words.pad_token_id,
        **more,
    }


def llava_tokenizer() -> hf.PreTrainedTokenizerFast:
    """LLaVA's special tokens."""
    return tokenizer(
        ["<pad>", "<s>", "</s>", "<image>"],
        True,
        eos_token="</s>",
        pad_token="<pad>",
        bos_token="<s>",
        extra_special_tokens={"image_token": "<image>"},
    )
