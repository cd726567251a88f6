"""The student: answers a transcript with sampled token ids. Calls that arrive together are generated in one batch.

Sampling is reproducible whatever the order of arrival: every answer has a generator of its own, seeded by its key.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, LogitsProcessor

from safer_steer.models.transcript import Transcript, model_inputs


@dataclass
class Completion:
    """One sampled turn."""

    token_ids: list[int]
    """With the end token, if it was sampled."""
    logprobs: list[float]
    """Of each token under the sampling temperature, before top-p."""
    text: str
    finish: str
    """`stop`, `length` (cut off), or `marker` (another chat marker was sampled: the turn ends there without it)."""


class Policy(Protocol):
    async def reply(self, transcript: Transcript, key: str) -> Completion:
        """Sample the assistant's next turn; the same key, transcript and weights give the same answer."""
        ...


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_p 1 keeps the whole distribution, as training needs."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


class _Sampler(LogitsProcessor):
    """Makes greedy search sample: adds Gumbel noise from each row's own generator, and notes the chosen tokens' log-probabilities."""

    def __init__(self, keys: list[str], sampling: Sampling, device: torch.device) -> None:
        self.sampling = sampling
        self.generators = [torch.Generator(device).manual_seed(int(hashlib.sha256(key.encode()).hexdigest()[:15], 16)) for key in keys]
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores [batch, vocabulary] -> scores whose argmax is the sample."""
        temperature = self.sampling.temperature
        logprobs = torch.log_softmax(scores.float() / (temperature or 1.0), -1)
        chosen = logprobs
        if temperature:
            if self.sampling.top_p < 1:
                ordered, order = logprobs.sort(descending=True)
                outside = ordered.exp().cumsum(-1) - ordered.exp() >= self.sampling.top_p
                chosen = logprobs.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
            noise = torch.stack([torch.empty_like(scores[0], dtype=torch.float32).exponential_(generator=g) for g in self.generators])
            chosen = chosen - noise.log()
        self.logprobs.append(logprobs.gather(-1, chosen.argmax(-1, keepdim=True)))
        return chosen


class TransformersPolicy:
    """In-process generation with a `transformers` model, on CPU or GPU.

    Calls wait until the event loop has nothing else to do (at most `window` seconds), then go out as batches of `batch_size`.
    """

    def __init__(self, model: Any, sampling: Sampling, batch_size: int = 64, window: float = 0.02) -> None:
        self.model, self.sampling = model, sampling
        self.batch_size, self.window = batch_size, window
        self._waiting: list[tuple[str, Transcript, asyncio.Future[Completion]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, transcript, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            await self._gather()
            batch = sorted(self._waiting, key=lambda item: (len(item[1].ids), item[0]))[: self.batch_size]
            taken = {id(item[2]) for item in batch}
            self._waiting = [item for item in self._waiting if id(item[2]) not in taken]
            try:
                completions = await asyncio.to_thread(self.generate, [t for _, t, _ in batch], [k for k, _, _ in batch])
            except Exception as error:
                for _, _, future in batch:
                    future.set_exception(error)
                continue
            for (_, _, future), completion in zip(batch, completions, strict=True):
                if not future.done():
                    future.set_result(completion)

    async def _gather(self) -> None:
        """Wait while more calls keep arriving, up to a full batch."""
        seen = -1
        while seen < len(self._waiting) < self.batch_size:
            seen = len(self._waiting)
            await asyncio.sleep(self.window)

    @torch.no_grad()
    def generate(self, transcripts: list[Transcript], keys: list[str]) -> list[Completion]:
        """One batch, left-padded."""
        chat = transcripts[0].chat
        device = self.model.device
        inputs = model_inputs(transcripts, "left", device)
        sampler = _Sampler(keys, self.sampling, device)
        config = GenerationConfig(do_sample=False, max_new_tokens=self.sampling.max_tokens, eos_token_id=chat.stops, pad_token_id=chat.pad)
        training, own = self.model.training, self.model.generation_config
        self.model.eval()
        self.model.generation_config = config  # what `config` leaves open is filled from here: a repetition penalty is no part of the policy
        try:
            out = self.model.generate(**inputs, generation_config=config, logits_processor=[sampler])
        finally:
            self.model.train(training)
            self.model.generation_config = own
        sampled = out[:, inputs["input_ids"].shape[1] :].tolist()
        logprobs = torch.cat(sampler.logprobs, 1).tolist()
        return [_completion(row, lp, transcript) for row, lp, transcript in zip(sampled, logprobs, transcripts, strict=True)]


def _completion(row: list[int], logprobs: list[float], transcript: Transcript) -> Completion:
    """Cut a generated row where its turn ends."""
    chat = transcript.chat
    end = next((i for i, token in enumerate(row) if token in set(chat.stops)), None)
    if end is None:
        ids, finish = row, "length"
    elif row[end] == chat.end:
        ids, finish = row[: end + 1], "stop"
    else:
        ids, finish = row[:end], "marker"
    return Completion(ids, logprobs[: len(ids)], chat.decode(ids), finish)
