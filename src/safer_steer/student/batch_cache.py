"""Keys and values of a batch whose rows and tokens come and go without a copy of the rest.

Rows are padded on the left, so that all end at the same token. The library's `DynamicCache` copies every key
and value for each token; so did taking a row out. On a small model that is more work than the model's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""For each layer: keys and values of a batch [rows, heads, tokens, width], rows padded on the left."""
ROOM = 64
"""Tokens for which a batch has room on either side. More of it copies less often and takes more memory."""


class Room:
    """A tensor [rows, heads, tokens, width] that rows and tokens join and leave without a copy of the rest.

    It is a part of a larger one. Rows end at the same token, with zeros before the first."""

    def __init__(self) -> None:
        self._whole = torch.empty(0, 0, 0, 0)
        self._rows = self._begin = self._end = 0

    @property
    def used(self) -> torch.Tensor:
        """A view."""
        return self._whole[: self._rows, :, self._begin : self._end]

    def write(self, tokens: torch.Tensor) -> None:
        """Add tokens to every row [rows, heads, tokens, width]."""
        count = tokens.shape[2]
        self._reserve(tokens, self._rows, 0, count)
        self._end += count
        self.used[:, :, -count:] = tokens

    def add(self, batches: Sequence[torch.Tensor]) -> None:
        """Add the rows of batches [rows, heads, tokens, width]."""
        longer = max(0, max(batch.shape[2] for batch in batches) - (self._end - self._begin))
        self._reserve(batches[0], self._rows + sum(map(len, batches)), longer, 0)
        self._begin -= longer
        self.used[:, :, :longer] = 0
        for batch in batches:
            before, tokens = self._rows, batch.shape[2]
            self._rows += len(batch)
            self.used[before:, :, :-tokens] = 0
            self.used[before:, :, -tokens:] = batch

    def keep(self, places: list[int], tokens: int) -> None:
        """Keep the rows at these places, in this order, and their last tokens."""
        self._begin = self._end - tokens
        moved = [place for place, of in enumerate(places) if place != of]
        if moved:
            self.used[moved] = self.used[[places[place] for place in moved]]
        self._rows = len(places)

    def _reserve(self, like: torch.Tensor, rows: int, left: int, right: int) -> None:
        """Make room for so many rows, and for more tokens on the left and on the right."""
        most, _, room, _ = self._whole.shape
        if rows <= most and left <= self._begin and self._end + right <= room:
            return
        used, begin = self.used, ROOM + left
        tokens = used.shape[2]
        self._whole = like.new_zeros(rows, like.shape[1], begin + tokens + right + ROOM, like.shape[3])
        self._begin, self._end = begin, begin + tokens
        if self._rows:
            self.used[:] = used


class BatchLayer(DynamicLayer):
    """A layer's keys and values of the rows that are being decoded."""

    def __init__(self) -> None:
        super().__init__()
        self._rooms = Room(), Room()
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens to every row. Returns all keys and values."""
        for room, tokens in zip(self._rooms, (key_states, value_states), strict=True):
            room.write(tokens)
        return self._used()

    def add(self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        """Add the rows of batches."""
        for room, batches in zip(self._rooms, (keys, values), strict=True):
            room.add(batches)
        self._used()

    def keep(self, places: list[int], tokens: int) -> None:
        """Keep the rows at these places, in this order, and their last tokens."""
        for room in self._rooms:
            room.keep(places, tokens)
        self._used()

    def _used(self) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._rooms
        self.keys, self.values = keys.used, values.used
        return self.keys, self.values


def layers_of(cache: DynamicCache) -> Layers:
    return [(layer.keys, layer.values) for layer in cache.layers]


def add_rows(cache: DynamicCache, batches: list[Layers]) -> None:
    """Add the rows of batches, in their order, to an empty cache or one that this function began."""
    cache.layers = cache.layers or [BatchLayer() for _ in batches[0]]
    for layer, parts in zip(cache.layers, zip(*batches, strict=True), strict=True):
        layer.add(*zip(*parts, strict=True))


def chosen(layers: Layers, rows: list[int], width: int) -> Layers:
    """Rows of a batch, in this order, and their last `width` tokens. A copy."""
    index = torch.tensor(rows, device=layers[0][0].device)
    return [(keys[index, :, -width:], values[index, :, -width:]) for keys, values in layers]


def without_gaps(layers: Layers, mask: torch.Tensor) -> Layers:
    """Move each row's tokens to the right, in their order, over gaps where `mask` [rows, tokens] is 0."""
    order = mask.argsort(dim=1, stable=True)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        index = order[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3])
        return tensor.gather(2, index)

    return [(moved(keys), moved(values)) for keys, values in layers]
