"""Keys and values of dialogues: cut out of a batch, put together again, and kept from turn to turn.

They are those of attention layers that look back over the whole dialogue. Layers that remember otherwise (a
sliding window, a recurrent or a convolution state) cannot be cut and stacked; see `decoding.can_join`.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache

from safer_steer.student.transcript import Origin, Transcript

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""For each layer: keys and values of a batch [rows, heads, tokens, width], rows padded on the left."""


@dataclass
class Kept:
    """One dialogue's keys and values, one row, and what they are of."""

    ids: list[int]
    pictures: list[dict[str, torch.Tensor]]
    layers: Layers

    def begins(self, transcript: Transcript) -> bool:
        """Whether the transcript goes on from here: the same tokens and the very same pictures, and more."""
        shown = transcript.pictures[: len(self.pictures)]
        same = len(shown) == len(self.pictures) and all(map(operator.is_, shown, self.pictures))
        tokens = len(self.ids)
        return same and tokens < len(transcript.ids) and transcript.ids[:tokens] == self.ids


class KeptCaches:
    """The last keys and values of each dialogue, at most `tokens` tokens in all; the least recently used go
    first. Those of a dialogue whose transcripts are gone go with them."""

    def __init__(self, tokens: int) -> None:
        self.limit = tokens
        self._kept: WeakKeyDictionary[Origin, Kept] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Dialogues."""
        return len(self._kept)

    @property
    def tokens(self) -> int:
        return sum(len(kept.ids) for kept in self._kept.values())

    def __contains__(self, transcript: Transcript) -> bool:
        kept = self._kept.get(transcript.origin)
        return kept is not None and kept.begins(transcript)

    def take(self, transcript: Transcript) -> Kept | None:
        """Remove and return what is kept of this dialogue; None if the transcript does not go on from it."""
        kept = self._kept.pop(transcript.origin, None)
        return kept if kept and kept.begins(transcript) else None

    def put(self, origin: Origin, kept: Kept) -> None:
        self._kept.pop(origin, None)  # it becomes the most recently used
        self._kept[origin] = kept
        while self.tokens > self.limit:
            oldest = next(iter(self._kept.keys()))
            del self._kept[oldest]

    def clear(self) -> None:
        self._kept.clear()


def cache_of(layers: Layers) -> DynamicCache:
    """A cache for the model that begins with these keys and values; an empty one if there are none."""
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache


def layers_of(cache: DynamicCache) -> Layers:
    return [(layer.keys, layer.values) for layer in cache.layers]


def stacked(batches: list[Layers]) -> Layers:
    """Batches as one, in their order. Shorter ones are filled up with zeros on the left."""
    if len(batches) == 1:
        return batches[0]
    width = max(keys.shape[2] for keys, _ in (batch[0] for batch in batches))
    return [
        (
            torch.cat([_widened(keys, width) for keys, _ in parts]),
            torch.cat([_widened(values, width) for _, values in parts]),
        )
        for parts in zip(*batches, strict=True)
    ]


def _widened(tensor: torch.Tensor, width: int) -> torch.Tensor:
    return pad(tensor, (0, 0, width - tensor.shape[2], 0)) if tensor.shape[2] < width else tensor


def chosen(layers: Layers, rows: list[int], width: int) -> Layers:
    """Rows of a batch, in this order, and their last `width` tokens. A copy."""
    if not layers:
        return []
    index = torch.tensor(rows, device=layers[0][0].device)
    return [(keys[index, :, -width:], values[index, :, -width:]) for keys, values in layers]


def without_gaps(layers: Layers, mask: torch.Tensor) -> Layers:
    """Move each row's tokens to the right, in their order, over gaps where `mask` [rows, tokens] is 0."""
    order = mask.argsort(dim=1, stable=True)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        index = order[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3])
        return tensor.gather(2, index)

    return [(moved(keys), moved(values)) for keys, values in layers]
