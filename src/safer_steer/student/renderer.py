"""What a family of students says of itself: its chat tokens, its pictures, its model's inputs and parts.

A new family is one file with a `Renderer` (chatml.py is the first) and one line in families.py, where
`load_renderer` compares the new renderer's ids with those of the processor's own chat template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from PIL import Image


@dataclass(frozen=True)
class Modules:
    """Parts of a family's model, each by its dotted name inside the names of its parameters."""

    language: str
    """The language model, without its head."""
    adapted: tuple[str, ...]
    """Linear layers of the language model that get adapters."""
    vision: str
    """The vision tower."""
    projector: str
    """What turns the vision tower's output into tokens of the language model."""


@dataclass
class Pictures:
    """All pictures of one dialogue, prepared."""

    features: dict[str, torch.Tensor]
    """What the vision tower takes, by the model's argument; a batch is joined along dimension 0."""
    ids: list[int]
    """The tokens that stand for the pictures in the first user turn, with the markers around them."""


class Renderer(Protocol):
    """One processor's chat tokens and model inputs.

    A dialogue is `opening`, the pictures' ids, text, `user_end`, a sampled turn with its `end`; from then on
    `user_start`, text, `user_end`, a sampled turn with its `end`.
    """

    modules: ClassVar[Modules]
    picture_inputs: ClassVar[tuple[str, ...]]
    """Names of all `Pictures.features`."""
    processor: Any
    opening: list[int]
    """The system message, and what stands before the first user turn."""
    user_start: list[int]
    """Between the end of an assistant's turn and the next user turn's text."""
    user_end: list[int]
    """After a user turn's text: its end and the assistant's start."""
    end: int
    """The token that ends an assistant's turn."""
    stops: list[int]
    """A turn ends where any of these is sampled; all but `end` are left out of the transcript."""
    pad: int

    def __init__(self, processor: Any, system: str) -> None:
        """`system` is the system message's text; empty for none."""
        ...

    def plain(self, text: str) -> list[int]:
        """Ids of text from outside; special tokens in it become ordinary characters."""
        ...

    def decode(self, ids: list[int]) -> str:
        """The text of sampled tokens without their end token."""
        ...

    def pictures(self, images: list[Image.Image]) -> Pictures | None:
        """Prepare a dialogue's pictures; None if it has none."""
        ...

    def inputs(self, rows: list[list[int]], pictures: list[Pictures], side: str) -> dict[str, torch.Tensor]:
        """A batch for the model: `rows` of ids padded on `side`, and all its dialogues' pictures in order."""
        ...


def padded(rows: list[list[int]], pad: int, side: str) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` [batch, tokens]; `side` of the padding is `left` or `right`."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    attention = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        span = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, span] = torch.tensor(row)
        attention[number, span] = 1
    return {"input_ids": ids, "attention_mask": attention}


def joined(pictures: list[Pictures]) -> dict[str, torch.Tensor]:
    """The features of several dialogues' pictures, one after the other; empty where there are none."""
    names = pictures[0].features if pictures else {}
    return {name: torch.cat([shown.features[name] for shown in pictures]) for name in names}


def name_of(processor: Any) -> str:
    """The folder or id that a processor was loaded from, for messages."""
    return str(getattr(processor, "tokenizer", processor).name_or_path or type(processor).__name__)
