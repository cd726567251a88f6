"""In-process rollouts with a `transformers` model on CPU or GPU. Concurrent calls are batched.

Each answer has its own random generator, seeded by its key, so sampling does not depend on arrival order.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationConfig, LogitsProcessor

from safer_steer.errors import UserError
from safer_steer.student.policy import Completion, SampledStudent, Sampling, cut_at_its_end
from safer_steer.student.transcript import Transcript, model_inputs

TOKENS = 65_536
"""Tokens of one generation batch: the default of `student.generation_tokens`."""
_made_do: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""Reduced batch size in tokens, by model, after running out of memory. It is kept here because RL makes a new
policy for the same model at every step."""
_log = logging.getLogger(__name__)


class _Sampler(LogitsProcessor):
    """Turns greedy search into sampling by adding Gumbel noise from each row's own generator. Records the
    log-probabilities of the chosen tokens."""

    def __init__(self, keys: list[str], sampling: Sampling, device: torch.device) -> None:
        self.sampling = sampling
        self.generators = [
            torch.Generator(device).manual_seed(int(hashlib.sha256(key.encode()).hexdigest()[:15], 16))
            for key in keys
        ]
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores [batch, vocabulary] to scores whose argmax is the sample."""
        temperature = self.sampling.temperature
        logprobs = torch.log_softmax(scores.float() / (temperature or 1.0), -1)
        chosen = logprobs
        if temperature:
            if self.sampling.top_p < 1:
                ordered, order = logprobs.sort(descending=True)
                outside = ordered.exp().cumsum(-1) - ordered.exp() >= self.sampling.top_p
                chosen = logprobs.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
            noise = torch.stack(
                [
                    torch.empty_like(scores[0], dtype=torch.float32).exponential_(generator=g)
                    for g in self.generators
                ]
            )
            chosen = chosen - noise.log()
        self.logprobs.append(logprobs.gather(-1, chosen.argmax(-1, keepdim=True)))
        return chosen


class TransformersPolicy:
    """In-process generation with a `transformers` model, on CPU or GPU.

    Calls are collected while more keep arriving within `window` seconds, then run as batches. A batch has at
    most `tokens` tokens, counted as rows times (longest prompt + room for an answer), since padding takes
    memory too. A single dialogue always runs. On out-of-memory, `tokens` is halved permanently and the batch
    is retried in smaller ones. In float32, an answer does not depend on the other rows of its batch.
    """

    def __init__(self, model: Any, sampling: Sampling, tokens: int = TOKENS, window: float = 0.02) -> None:
        self.model, self.sampling = model, sampling
        self.tokens, self.window = min(tokens, _made_do.get(model, tokens)), window
        self._waiting: list[tuple[str, Transcript, asyncio.Future[Completion]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        """Sample a turn. Raises `UserError` if memory is insufficient for this dialogue alone."""
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, transcript, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            await self._gather()
            waiting = sorted(self._waiting, key=lambda item: (len(item[1].ids), item[0]))
            count = self.fitting([len(transcript.ids) for _, transcript, _ in waiting])
            batch, self._waiting = waiting[:count], waiting[count:]
            transcripts, keys = [t for _, t, _ in batch], [k for k, _, _ in batch]
            try:
                completions = await asyncio.to_thread(self.generate_in_pieces, transcripts, keys)
            except Exception as error:
                for _, _, future in batch:
                    if not future.done():  # its caller was cancelled
                        future.set_exception(error)
                continue
            for (_, _, future), completion in zip(batch, completions, strict=True):
                if not future.done():
                    future.set_result(completion)

    async def _gather(self) -> None:
        """Wait while more calls arrive, up to a full batch."""
        seen = -1
        while seen < len(self._waiting):
            seen = len(self._waiting)
            if self.fitting(sorted(len(transcript.ids) for _, transcript, _ in self._waiting)) < seen:
                return
            await asyncio.sleep(self.window)

    def fitting(self, lengths: list[int]) -> int:
        """How many prompts fit one batch, given their lengths in ascending order; at least one."""
        room = self.sampling.max_tokens
        count = 1
        while count < len(lengths) and (count + 1) * (lengths[count] + room) <= self.tokens:
            count += 1
        return count

    def generate_in_pieces(self, transcripts: list[Transcript], keys: list[str]) -> list[Completion]:
        """Generate for prompts in ascending order of length, in as many batches as memory requires.

        Raises:
            UserError: memory is insufficient for a single prompt.
        """
        done: list[Completion] = []
        while len(done) < len(transcripts):
            rest = transcripts[len(done) :]
            piece = rest[: self.fitting([len(transcript.ids) for transcript in rest])]
            try:
                found = self.generate(piece, keys[len(done) : len(done) + len(piece)])
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not _out_of_memory(error):
                    raise
                found = None
            if found is None:  # outside `except`: inside, the traceback would keep the tensors alive
                self._make_do_with_less(piece)
            else:
                done += found
        return done

    def _make_do_with_less(self, piece: list[Transcript]) -> None:
        """Halve the token budget until this piece, which did not fit, takes more than one batch."""
        lengths = [len(transcript.ids) for transcript in piece]
        if len(piece) == 1:
            raise UserError(
                f"student.generation_tokens: a single dialogue of {lengths[0]} tokens with an answer of up to"
                f" {self.sampling.max_tokens} does not fit in memory; lower student.max_turn_tokens,"
                " student.max_pixels or the number of turns, set student.lora_rank, or use a larger GPU"
            )
        before = self.tokens
        while self.fitting(lengths) == len(piece):
            self.tokens //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.model not in _made_do:
            _log.warning(
                "out of memory: generating again with batches of %s tokens instead of %s, and smaller ones if"
                " needed; lower student.generation_tokens to avoid this",
                f"{self.tokens:,}",
                f"{before:,}",
            )
        _made_do[self.model] = self.tokens

    @torch.no_grad()
    def generate(self, transcripts: list[Transcript], keys: list[str]) -> list[Completion]:
        """Generate one left-padded batch. Restores the model's mode and generation config afterwards."""
        renderer = transcripts[0].renderer
        device = self.model.device
        inputs = model_inputs(transcripts, "left", device)
        sampler = _Sampler(keys, self.sampling, device)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self.sampling.max_tokens,
            eos_token_id=renderer.stops,
            pad_token_id=renderer.pad,
        )
        training = self.model.training
        self.model.eval()
        try:
            with _generating_by(self.model, config):
                out = self.model.generate(**inputs, generation_config=config, logits_processor=[sampler])
        finally:
            self.model.train(training)
        sampled = out[:, inputs["input_ids"].shape[1] :].tolist()
        logprobs = torch.cat(sampler.logprobs, 1).tolist()
        return [
            cut_at_its_end(row, lp, transcript.renderer)
            for row, lp, transcript in zip(sampled, logprobs, transcripts, strict=True)
        ]


def in_process(student: SampledStudent) -> TransformersPolicy:
    """Make an in-process policy for a model with the student's settings. A `PolicyOf`."""
    sampling = Sampling(student.settings.max_turn_tokens, student.temperature)
    return TransformersPolicy(student.model, sampling, student.settings.generation_tokens)


@contextmanager
def _generating_by(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Temporarily replace the model's generation config with `config`.

    Otherwise values that `config` leaves unset would come from the model's own, and settings such as a
    repetition penalty are not part of the policy. PEFT copies its wrapper's config to the inner model, which
    is the one that is saved, so both configs are restored.
    """
    inside = model.get_base_model() if hasattr(model, "peft_config") else model
    holders = [model] if inside is model else [model, inside]
    own = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = config
    try:
        yield
    finally:
        for holder, kept in zip(holders, own, strict=True):
            holder.generation_config = kept


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()
