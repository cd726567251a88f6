"""Rollouts in this process, with a `transformers` model on CPU or GPU. Calls that arrive together are one
batch.

Sampling is reproducible whatever the order of arrival: every answer has a generator of its own, seeded by its
key.
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

from safer_steer.config import Student
from safer_steer.errors import UserError
from safer_steer.student.policy import Completion, Sampling
from safer_steer.student.transcript import Transcript, model_inputs

TOKENS = 65_536
"""Tokens of one batch of generation, as `student.generation_tokens` has it by default."""
_made_do: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""Tokens of a batch that a model's GPU had to make do with: RL makes a policy for every step, on the same
model."""
_log = logging.getLogger(__name__)


class _Sampler(LogitsProcessor):
    """Makes greedy search sample: adds Gumbel noise from each row's own generator, and notes the chosen
    tokens' log-probabilities."""

    def __init__(self, keys: list[str], sampling: Sampling, device: torch.device) -> None:
        self.sampling = sampling
        self.generators = [
            torch.Generator(device).manual_seed(int(hashlib.sha256(key.encode()).hexdigest()[:15], 16))
            for key in keys
        ]
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

    Calls wait until the event loop has nothing else to do (at most `window` seconds), then go out as batches.
    A batch holds at most `tokens` tokens: its rows times the longest prompt and the room for an answer, since
    padding takes memory too. One dialogue alone always goes. Where memory does not suffice, `tokens` is
    halved, for good, and what did not fit is tried again in pieces; no answer depends on its company in
    float32.
    """

    def __init__(self, model: Any, sampling: Sampling, tokens: int = TOKENS, window: float = 0.02) -> None:
        self.model, self.sampling = model, sampling
        self.tokens, self.window = min(tokens, _made_do.get(model, tokens)), window
        self._waiting: list[tuple[str, Transcript, asyncio.Future[Completion]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        """Raises `UserError` where the memory does not suffice for this dialogue alone."""
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
                    future.set_exception(error)
                continue
            for (_, _, future), completion in zip(batch, completions, strict=True):
                if not future.done():
                    future.set_result(completion)

    async def _gather(self) -> None:
        """Wait while more calls keep arriving, up to a full batch."""
        seen = -1
        while seen < len(self._waiting):
            seen = len(self._waiting)
            if self.fitting(sorted(len(transcript.ids) for _, transcript, _ in self._waiting)) < seen:
                return
            await asyncio.sleep(self.window)

    def fitting(self, lengths: list[int]) -> int:
        """How many prompts of these lengths, in ascending order, are one batch; at least one."""
        room = self.sampling.max_tokens
        count = 1
        while count < len(lengths) and (count + 1) * (lengths[count] + room) <= self.tokens:
            count += 1
        return count

    def generate_in_pieces(self, transcripts: list[Transcript], keys: list[str]) -> list[Completion]:
        """Prompts in ascending order of length, in as many batches as memory asks for.

        Raises:
            UserError: the memory does not suffice for one of them alone.
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
            if found is None:  # outside `except`, where the error's traceback would still hold the tensors
                self._make_do_with_less(piece)
            else:
                done += found
        return done

    def _make_do_with_less(self, piece: list[Transcript]) -> None:
        """Halve the budget until this piece, which did not fit, is more than one batch."""
        lengths = [len(transcript.ids) for transcript in piece]
        if len(piece) == 1:
            raise UserError(
                f"student.generation_tokens: no memory for one dialogue of {lengths[0]} tokens and an answer of up to"
                f" {self.sampling.max_tokens} alone; lower student.max_turn_tokens, student.max_pixels or the turns a"
                " dialogue has, set student.lora_rank, or take a larger GPU"
            )
        before = self.tokens
        while self.fitting(lengths) == len(piece):
            self.tokens //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.model not in _made_do:
            _log.warning(
                "out of memory: a batch of generation is tried again with %s tokens instead of %s, and halved again"
                " where needed; lower student.generation_tokens to spare the attempts",
                f"{self.tokens:,}",
                f"{before:,}",
            )
        _made_do[self.model] = self.tokens

    @torch.no_grad()
    def generate(self, transcripts: list[Transcript], keys: list[str]) -> list[Completion]:
        """One batch, left-padded. The model's mode and generation config are afterwards what they were."""
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
            _completion(row, lp, transcript)
            for row, lp, transcript in zip(sampled, logprobs, transcripts, strict=True)
        ]


def in_process(model: Any, student: Student, temperature: float) -> TransformersPolicy:
    """The policy of a model in this process, with the student's settings. A `PolicyOf`."""
    sampling = Sampling(student.max_turn_tokens, temperature)
    return TransformersPolicy(model, sampling, student.generation_tokens)


@contextmanager
def _generating_by(model: Any, config: GenerationConfig) -> Iterator[None]:
    """`config` in place of the model's own, from which whatever `config` leaves open would be filled.

    A repetition penalty is no part of the policy. PEFT hands its wrapper's config to the model inside, which
    is the one that is saved: so both get theirs back.
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


def _completion(row: list[int], logprobs: list[float], transcript: Transcript) -> Completion:
    """Cut a generated row where its turn ends."""
    renderer = transcript.renderer
    end = next((i for i, token in enumerate(row) if token in set(renderer.stops)), None)
    if end is None:
        ids, finish = row, "length"
    elif row[end] == renderer.end:
        ids, finish = row[: end + 1], "stop"
    else:
        ids, finish = row[:end], "marker"
    return Completion(ids, logprobs[: len(ids)], renderer.decode(ids), finish)
