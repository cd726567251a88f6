"""The interface of a model family: chat tokens, picture preprocessing, model inputs and module names.

To add a family, write one file with a `Renderer` (see chatml.py) and add one line to families.py.
`load_renderer` compares the renderer's ids with those of the processor's own chat template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from PIL import Image


@dataclass(frozen=True)
class Modules:
    """Dotted names of a model's parts, as they occur inside its parameter names."""

    language: str
    """The language model without its head."""
    adapted: tuple[str, ...]
    """Linear layers of the language model that get adapters."""
    vision: str
    """The vision tower."""
    projector: str
    """The module that maps the vision tower's output to tokens of the language model."""


@dataclass
class Pictures:
    """All pictures of one dialogue, preprocessed."""

    features: dict[str, torch.Tensor]
    """Inputs of the vision tower, by argument name. Batches are concatenated along dimension 0."""
    ids: list[int]
    """The picture tokens in the first user turn, including the markers around them."""


class Renderer(Protocol):
    """One processor's chat tokens and model inputs.

    The first exchange is `opening`, the pictures' ids, text, `user_end`, and a sampled turn with its `end`.
    Each later exchange is `user_start`, text, `user_end`, and a sampled turn with its `end`.
    """

    modules: ClassVar[Modules]
    picture_inputs: ClassVar[tuple[str, ...]]
    """The names of all `Pictures.features`."""
    processor: Any
    opening: list[int]
    """The system message and the tokens before the first user turn."""
    user_start: list[int]
    """Tokens between the end of an assistant turn and the next user turn's text."""
    user_end: list[int]
    """Tokens after a user turn's text: the end of that turn and the start of the assistant's."""
    end: int
    """The token that ends an assistant turn."""
    stops: list[int]
    """Sampling any of these ends the turn. All but `end` are left out of the transcript."""
    pad: int

    def __init__(self, processor: Any, system: str) -> None:
        """`system` is the text of the system message; empty for none."""
        ...

    def plain(self, text: str) -> list[int]:
        """Ids of external text. Special tokens in it are encoded as ordinary characters."""
        ...

    def decode(self, ids: list[int]) -> str:
        """The text of sampled tokens, without the end token."""
        ...

    def pictures(self, images: list[Image.Image]) -> Pictures | None:
        """Preprocess a dialogue's pictures; None if it has none."""
        ...

    def inputs(self, rows: list[list[int]], pictures: list[Pictures], side: str) -> dict[str, torch.Tensor]:
        """A batch for the model: `rows` of ids padded on `side`, and all dialogues' pictures in order."""
        ...


def padded(rows: list[list[int]], pad: int, side: str) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` [batch, tokens], padded on `side`: `left` or `right`."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    attention = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        span = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, span] = torch.tensor(row)
        attention[number, span] = 1
    return {"input_ids": ids, "attention_mask": attention}


def joined(pictures: list[Pictures]) -> dict[str, torch.Tensor]:
    """The picture features of several dialogues, concatenated; empty if there are no pictures."""
    names = pictures[0].features if pictures else {}
    return {name: torch.cat([shown.features[name] for shown in pictures]) for name in names}


def name_of(processor: Any) -> str:
    """The folder or hub id that a processor was loaded from, for messages."""
    return str(getattr(processor, "tokenizer", processor).name_or_path or type(processor).__name__)
