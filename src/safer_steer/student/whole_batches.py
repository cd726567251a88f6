"""Decoding by the library's `generate`, a whole batch at a time: for models whose caches cannot be cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor

from safer_steer.student.decoding import Row, inside
from safer_steer.student.policy import Sampling
from safer_steer.student.sampler import drawn
from safer_steer.student.transcript import model_inputs


class _Sampler(LogitsProcessor):
    """Turns greedy search into sampling. Records the log-probabilities of the chosen tokens."""

    def __init__(self, rows: list[Row], sampling: Sampling) -> None:
        self.generators = [row.generator for row in rows if row.generator]
        self.sampling = sampling
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores [rows, vocabulary] to scores whose argmax is the sample."""
        chosen, logprobs = drawn(scores, self.generators, self.sampling)
        self.logprobs.append(logprobs)
        return chosen


class WholeBatchDecoder:
    """Every batch reads its histories again, and ends with its longest answer. A `Decoder`."""

    joins = False

    def __init__(self, model: Any, sampling: Sampling) -> None:
        self.model, self.sampling = model, sampling
        self.rows: list[Row] = []
        self.prefilled = 0

    def join(self, rows: list[Row]) -> list[Row]:
        """Take a batch in."""
        for row in rows:
            row.begin(self.model.device)
        self.rows = rows
        return []

    def step(self) -> list[Row]:
        """Generate one left-padded batch to its end. Restores the model's generation config afterwards."""
        rows = self.rows
        renderer = rows[0].transcript.renderer
        inputs = model_inputs([row.transcript for row in rows], "left", self.model.device)
        sampler = _Sampler(rows, self.sampling)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self.sampling.max_tokens,
            eos_token_id=renderer.stops,
            pad_token_id=renderer.pad,
        )
        with _generating_by(self.model, config):
            out = self.model.generate(
                **inputs,
                generation_config=config,
                logits_processor=[sampler],
                synced_gpus=False,  # other processes generate other numbers of tokens
            )
        self.prefilled += sum(len(row.transcript.ids) for row in rows)
        sampled = out[:, inputs["input_ids"].shape[1] :].tolist()
        logprobs = torch.cat(sampler.logprobs, 1).tolist()
        for row, ids, known in zip(rows, sampled, logprobs, strict=True):
            end = next((i + 1 for i, token in enumerate(ids) if token in renderer.stops), len(ids))
            row.sampled, row.logprobs = ids[:end], known[:end]
        self.rows = []
        return rows

    def drop(self, rows: list[Row]) -> None:
        """Take out rows whose answers nobody waits for."""
        self.rows = [row for row in self.rows if row not in rows]

    def clear(self) -> None:
        self.rows = []


@contextmanager
def _generating_by(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Temporarily replace the model's generation config with `config`.

    Otherwise values that `config` leaves unset would come from the model's own, and settings such as a
    repetition penalty are not part of the policy. PEFT copies its wrapper's config to the inner model, so
    both are restored.
    """
    holders = [model] if inside(model) is model else [model, inside(model)]
    own = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = config
    try:
        yield
    finally:
        for holder, kept in zip(holders, own, strict=True):
            holder.generation_config = kept
