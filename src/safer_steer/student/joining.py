"""Decoding in which rows join and leave between two tokens, and a dialogue's history is read once.

After an answer, the dialogue's keys and values are kept; its next turn reads only what is new. Dialogues that
begin alike, such as a group's, read their common first prompt once. For this a model's cache must be cut and
stacked, which `can_join` decides by the cache that the model makes. `generate` of the library cannot do
either: its batches end together, and it continues from one cache for all rows.
"""

from __future__ import annotations

import inspect
import operator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer

from safer_steer.student.batch_cache import Layers, add_rows, chosen, layers_of, without_gaps
from safer_steer.student.decoding import Row, draw
from safer_steer.student.modules import inside
from safer_steer.student.policy import Sampling
from safer_steer.student.transcript import Origin, Transcript, model_inputs


@dataclass
class Kept:
    """One dialogue's keys and values, one row, and what they are of."""

    ids: list[int]
    pictures: list[dict[str, torch.Tensor]]
    layers: Layers

    def begins(self, transcript: Transcript) -> bool:
        """Whether the transcript goes on from here: the same tokens and the very same pictures, and more."""
        pictures = transcript.pictures[: len(self.pictures)]
        same = len(pictures) == len(self.pictures) and all(map(operator.is_, pictures, self.pictures))
        tokens = len(self.ids)
        return same and tokens < len(transcript.ids) and transcript.ids[:tokens] == self.ids


class KeptCaches:
    """The last keys and values of each dialogue, at most `tokens` tokens in all; the least recently used go
    first. Those of a dialogue whose transcripts are gone go with them."""

    def __init__(self, tokens: int) -> None:
        self.limit = tokens
        self._caches: WeakKeyDictionary[Origin, Kept] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Dialogues."""
        return len(self._caches)

    @property
    def tokens(self) -> int:
        return sum(len(cache.ids) for cache in self._caches.values())

    def __contains__(self, transcript: Transcript) -> bool:
        cache = self._caches.get(transcript.origin)
        return cache is not None and cache.begins(transcript)

    def take(self, transcript: Transcript) -> Kept | None:
        """Remove and return what is kept of this dialogue; None if the transcript does not go on from it."""
        cache = self._caches.pop(transcript.origin, None)
        return cache if cache and cache.begins(transcript) else None

    def put(self, origin: Origin, cache: Kept) -> None:
        self._caches.pop(origin, None)  # it becomes the most recently used
        self._caches[origin] = cache
        while self.tokens > self.limit:
            oldest = next(iter(self._caches.keys()))
            del self._caches[oldest]

    def clear(self) -> None:
        self._caches.clear()


def can_join(model: Any, token: int) -> bool:
    """Whether the model's cache can be cut and stacked: every layer keeps keys and values of all tokens.

    The model reads one token and is asked what cache it made. A sliding window, a recurrent state or a
    convolution state is another type of layer; layers that look at pictures only, or share another layer's
    keys, hold nothing of a token of text.
    """
    model = inside(model)
    one = torch.full((1, 1), token, device=model.device)
    output = model(input_ids=one, attention_mask=torch.ones_like(one), use_cache=True, return_dict=True)
    cache: Any = getattr(output, "past_key_values", None)
    if type(cache) is not DynamicCache or not hasattr(model, "_prepare_position_ids_for_generation"):
        return False
    return all(type(layer) is DynamicLayer and layer.get_seq_length() == 1 for layer in cache.layers)


class JoiningDecoder:
    """A batch of rows at different places of their answers. A `Decoder`.

    Rows are padded on the left, so all end at the same place. A row's keys and values are of its transcript
    and of all sampled tokens but the last.
    """

    joins = True

    def __init__(self, model: Any, sampling: Sampling, caches: KeptCaches) -> None:
        self.model, self.sampling, self.caches = inside(model), sampling, caches
        last_only = "logits_to_keep" in inspect.signature(type(self.model).forward).parameters
        self._options: dict[str, Any] = {"logits_to_keep": 1} if last_only else {}
        self.prefilled = 0
        self.clear()

    def clear(self) -> None:
        self.rows: list[Row] = []
        self._lengths: list[int] = []
        """Tokens of each row in the cache."""
        self._cache = DynamicCache()
        self._next: torch.Tensor | None = None
        """Position of each row's next token [rows, 1], or [axes, rows, 1]."""

    def join(self, rows: list[Row]) -> list[Row]:
        """Read the transcripts of new rows, and sample the first token of each."""
        fresh, going, caches = [], [], []
        for row in rows:
            row.begin(self.model.device)
            cache = self.caches.take(row.transcript)
            if cache and not _needs_all(row.transcript, cache):
                going.append(row)
                caches.append(cache)
            else:
                fresh.append(row)
        parts = [self._fresh(fresh)] if fresh else []
        if going:
            parts.append(self._going_on(going, caches))
        add_rows(self._cache, [layers for layers, _, _ in parts])
        joined = [*fresh, *going]
        nexts = [torch.cat([p[..., -1:] for p in positions], -2) + 1 for _, positions, _ in parts]
        self._next = torch.cat([*([self._next] if self._next is not None else []), *nexts], -2)
        self.rows += joined
        self._lengths += [len(row.transcript.ids) for row in joined]
        return self._sampled(joined, torch.cat([logits for _, _, logits in parts]))

    def step(self) -> list[Row]:
        """Decode one token of each row."""
        device = self.model.device
        self._lengths = [length + 1 for length in self._lengths]
        width = self._cache.get_seq_length() + 1
        lengths = torch.tensor(self._lengths, device=device)
        logits = self._read(
            {
                "input_ids": torch.tensor([[row.sampled[-1]] for row in self.rows], device=device),
                "attention_mask": (torch.arange(width, device=device) >= width - lengths[:, None]).long(),
                "position_ids": self._next,
            },
            self._cache,
        )
        assert self._next is not None
        self._next = self._next + 1
        return self._sampled(self.rows, logits)

    def _fresh(self, rows: list[Row]) -> tuple[Layers, list[torch.Tensor], torch.Tensor]:
        """Layers, positions and logits of rows of which nothing is kept. Equal transcripts are read once."""
        firsts: list[Transcript] = []
        which = []
        for row in rows:
            same = (i for i, first in enumerate(firsts) if _alike(first, row.transcript))
            which.append(next(same, len(firsts)))
            if which[-1] == len(firsts):
                firsts.append(row.transcript)
        positions = [self._positions(first) for first in firsts]
        layers, logits, _ = self._prefill(firsts, positions, None, DynamicCache())
        if len(firsts) < len(rows):
            layers, logits = chosen(layers, which, layers[0][0].shape[2]), logits[which]
        return layers, [positions[i] for i in which], logits

    def _going_on(
        self, rows: list[Row], caches: list[Kept]
    ) -> tuple[Layers, list[torch.Tensor], torch.Tensor]:
        """The same for rows of which only the end is new."""
        past, counts = DynamicCache(), [len(cache.ids) for cache in caches]
        add_rows(past, [cache.layers for cache in caches])
        width = past.get_seq_length()
        before = torch.arange(width) >= width - torch.tensor(counts)[:, None]
        rests = [
            row.transcript.after(len(cache.ids), len(cache.pictures))
            for row, cache in zip(rows, caches, strict=True)
        ]
        positions = [
            self._positions(row.transcript)[..., count:] for row, count in zip(rows, counts, strict=True)
        ]
        layers, logits, mask = self._prefill(rests, positions, before.long().to(self.model.device), past)
        longest = max(len(row.transcript.ids) for row in rows)
        layers = without_gaps(layers, mask)
        layers = [(keys[:, :, -longest:], values[:, :, -longest:]) for keys, values in layers]
        return layers, positions, logits

    def _prefill(
        self,
        rests: list[Transcript],
        positions: list[torch.Tensor],
        before: torch.Tensor | None,
        cache: DynamicCache,
    ) -> tuple[Layers, torch.Tensor, torch.Tensor]:
        """Read tokens that follow `cache`, whose mask is `before` [rows, tokens]. Returns layers of both, the
        logits of the last tokens [rows, vocabulary], and the mask of both."""
        inputs = model_inputs(rests, "left", self.model.device)
        width = inputs["input_ids"].shape[1]
        inputs["position_ids"] = torch.cat([pad(p, (width - p.shape[-1], 0)) for p in positions], -2)
        if before is not None:
            inputs["attention_mask"] = torch.cat([before, inputs["attention_mask"]], 1)
        logits = self._read(inputs, cache)
        self.prefilled += sum(len(rest.ids) for rest in rests)
        return layers_of(cache), logits, inputs["attention_mask"]

    def _read(self, inputs: dict[str, Any], cache: DynamicCache) -> torch.Tensor:
        """The logits that follow each row [rows, vocabulary]. The cache then holds what was read."""
        output = self.model(
            **inputs, past_key_values=cache, use_cache=True, return_dict=True, **self._options
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _positions(self, transcript: Transcript) -> torch.Tensor:
        """Positions of all tokens [1, tokens], or [axes, 1, tokens] where pictures have several axes."""
        inputs = model_inputs([_without_pixels(transcript)], "left")
        ids = inputs.pop("input_ids")
        positions: torch.Tensor = self.model._prepare_position_ids_for_generation(ids, inputs)
        return positions.to(self.model.device)

    def _sampled(self, rows: list[Row], logits: torch.Tensor) -> list[Row]:
        """Draw a token for each of these rows. Those that end with it leave."""
        scores, logprobs = draw(logits, rows, self.sampling)
        for row, token, value in zip(rows, scores.argmax(-1).tolist(), logprobs[:, 0].tolist(), strict=True):
            row.sampled.append(token)
            row.logprobs.append(value)
        return self._leave()

    def _leave(self) -> list[Row]:
        """Take out the rows that have ended, and keep their keys and values."""
        gone = [i for i, row in enumerate(self.rows) if row.ended(self.sampling)]
        if not gone:
            return []
        layers = layers_of(self._cache)
        ended = [self.rows[i] for i in gone]
        for row, place in zip(ended, gone, strict=True):
            if self._lengths[place] <= self.caches.limit:
                ids = row.transcript.ids + row.sampled[:-1]
                cut = chosen(layers, [place], self._lengths[place])
                self.caches.put(row.transcript.origin, Kept(ids, list(row.transcript.pictures), cut))
        self._without(gone)
        return ended

    def drop(self, rows: list[Row]) -> None:
        """Take out rows whose answers nobody waits for."""
        self._without([i for i, row in enumerate(self.rows) if row in rows])

    def _without(self, gone: list[int]) -> None:
        """Take out the rows at these places. The last rows take their places, so that few move."""
        places = list(range(len(self.rows)))
        for place in reversed(gone):
            places[place] = places[-1]
            places.pop()
        if not places:
            self.clear()
            return
        self._lengths = [self._lengths[i] for i in places]
        for layer in self._cache.layers:
            layer.keep(places, max(self._lengths))
        assert self._next is not None
        self._next = self._next[..., places, :]
        self.rows = [self.rows[i] for i in places]


def _needs_all(transcript: Transcript, cache: Kept) -> bool:
    """Whether new pictures must be read with the whole history: where tokens have types, models may let a
    picture's tokens look ahead (Gemma), and place the types from the start of the row."""
    return bool(transcript.aligned) and len(transcript.pictures) > len(cache.pictures)


def _alike(one: Transcript, other: Transcript) -> bool:
    """Whether a model reads the same from both."""
    if one.ids != other.ids or len(one.pictures) != len(other.pictures):
        return False
    return all(
        mine is theirs
        or (mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine))
        for mine, theirs in zip(one.pictures, other.pictures, strict=True)
    )


def _without_pixels(transcript: Transcript) -> Transcript:
    """The transcript without pixels: positions depend on tokens, and on the whole numbers that describe the
    pictures."""
    rest = transcript.after(0, 0)
    rest.pictures = [
        {name: value for name, value in turn.items() if not value.is_floating_point()}
        for turn in transcript.pictures
    ]
    return rest
