"""In-process rollouts with a `transformers` model on CPU or GPU. Concurrent calls are decoded together.

Each answer has its own random generator, seeded by its key, so sampling does not depend on arrival order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch

from safer_steer.config import Student
from safer_steer.errors import UserError
from safer_steer.student.decoding import Decoder, Row, WholeBatchDecoder
from safer_steer.student.joining import JoiningDecoder, KeptCaches, can_join
from safer_steer.student.policy import Completion, SampledStudent, Sampling
from safer_steer.student.transcript import Transcript

_DEFAULT = Student()
WINDOWS, WINDOW_S = 5, 0.02
"""How often an empty batch waits for more calls, at most, and how long."""
_budgets: WeakKeyDictionary[Any, tuple[int, int]] = WeakKeyDictionary()
"""Reduced sizes in tokens of batch and kept caches, by model, after running out of memory. They are here
because RL makes a new policy for the same model at every step."""
_log = logging.getLogger(__name__)


class TransformersPolicy:
    """In-process sampling with a `transformers` model, on CPU or GPU.

    A call joins the answers that are being decoded, between two tokens, and leaves when its own answer ends.
    The keys and values of its dialogue are kept, up to `kept_tokens` of all dialogues, so its next turn reads
    only what is new. Models whose cache cannot be cut are decoded in whole batches instead, for which calls
    are collected while more keep arriving.

    A batch has at most `tokens` tokens, counted as rows times (longest prompt + room for an answer), since
    padding takes memory too. A single dialogue always runs. On out-of-memory the kept caches are given up
    first, then `tokens` is halved permanently; the answers begun start again. In float32, an answer does not
    depend on the other rows of its batch.
    """

    def __init__(
        self,
        model: Any,
        sampling: Sampling,
        tokens: int = _DEFAULT.generation_tokens,
        kept_tokens: int = _DEFAULT.kept_tokens,
        half: bool = False,
    ) -> None:
        """`half`: in bfloat16, also with weights in float32. They are cast once for many tokens."""
        self.half = half and all(weight.dtype == torch.float32 for weight in model.parameters())
        self.model, self.sampling = model, sampling
        most_tokens, most_kept = _budgets.get(model, (tokens, kept_tokens))
        self.tokens, self.caches = min(tokens, most_tokens), KeptCaches(min(kept_tokens, most_kept))
        self._decoder: Decoder | None = None
        self._weights = -1
        self._calls: dict[Row, asyncio.Future[Completion]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._news = False
        """Whether a call came or went since decoding went on; decoding then pauses after the next token."""

    @property
    def prefilled(self) -> int:
        """Tokens of questions and histories that the model has read so far, without padding."""
        return self._decoder.prefilled if self._decoder else 0

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        """Sample a turn. Raises `UserError` if memory is insufficient for this dialogue alone."""
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._calls[Row(key, transcript)] = future
        self._news = True
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())
        try:
            return await future
        except asyncio.CancelledError:
            self._news = True
            raise

    def generate(self, transcripts: list[Transcript], keys: list[str]) -> list[Completion]:
        """Sample a turn of each transcript, outside an event loop. Raises as `reply` does."""
        rows = [Row(key, transcript) for key, transcript in zip(keys, transcripts, strict=True)]
        waiting = list(rows)
        self._news = False
        with self._sampling():
            try:
                while waiting:
                    finished = self._decode(self._admitted(waiting))
                    waiting = [row for row in waiting if row not in finished]
            finally:
                if self._decoder:
                    self._decoder.clear()
        return [row.completion for row in rows]

    async def _work(self) -> None:
        try:
            with self._sampling():
                while self._calls:
                    await self._gather()
                    self._news = False
                    self._drop_cancelled()
                    new = self._admitted(list(self._calls))
                    if not (new or self._decoding):
                        continue
                    try:
                        finished = await asyncio.to_thread(self._decode, new)
                    except Exception as error:
                        self._fail(new, error)
                        continue
                    for row in finished:
                        future = self._calls.pop(row)
                        if not future.done():  # its caller was cancelled
                            future.set_result(row.completion)
        finally:
            self._news = True  # if cancelled: the thread ends with its next token

    async def _gather(self) -> None:
        """If nothing is being decoded, let the calls in that are on their way. Whole batches, which nobody
        can join, wait while more calls arrive, up to a full batch."""
        if self._decoding:
            return
        if self._decoder and self._decoder.joins:
            await asyncio.sleep(0)
            return
        for _ in range(WINDOWS):
            before = len(self._calls)
            if len(self._admitted(list(self._calls))) < before:
                return
            await asyncio.sleep(WINDOW_S)
            if len(self._calls) == before:
                return

    def _drop_cancelled(self) -> None:
        cancelled = [row for row, future in self._calls.items() if future.done()]
        for row in cancelled:
            del self._calls[row]
        if self._decoder and cancelled:
            self._decoder.drop(cancelled)

    def _fail(self, new: list[Row], error: Exception) -> None:
        """Pass an error on to the callers of all rows in the batch, which is gone."""
        for row in [row for row in self._calls if row.begun or row in new]:
            future = self._calls.pop(row)
            if not future.done():
                future.set_exception(error)
        if self._decoder:
            self._decoder.clear()

    @property
    def _decoding(self) -> list[Row]:
        return self._decoder.rows if self._decoder else []

    def _admitted(self, rows: list[Row]) -> list[Row]:
        """Those of these rows that go into the batch now: as many as fit, and one if it is empty.

        Dialogues of which something is kept go first, so that it is used before it is given up.
        """
        running = self._decoding
        if running and self._decoder and not self._decoder.joins:
            return []
        waiting = [row for row in rows if not row.begun]
        waiting.sort(key=lambda row: (row.transcript not in self.caches, len(row.transcript.ids), row.key))
        batch = list(running)
        for row in waiting:
            if not self.fits([*batch, row]):
                break
            batch.append(row)
        return batch[len(running) :]

    def fits(self, rows: list[Row]) -> bool:
        """Whether these rows fit one batch. A single one always does."""
        longest = max(len(row.transcript.ids) for row in rows) + self.sampling.max_tokens
        return len(rows) == 1 or len(rows) * longest <= self.tokens

    @torch.no_grad()
    def _decode(self, new: list[Row]) -> list[Row]:
        """Take in new rows and decode until a row is finished or there is news. Returns the finished rows.
        Raises `UserError` if memory is insufficient for a single dialogue.

        After running out of memory all rows begin again: none is finished then, and the batch is empty."""
        try:
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.half):
                decoder = self._decoder = self._decoder or self._decoder_for(new[0])
                finished = decoder.join(new) if new else []
                while decoder.rows and not finished and not self._news:
                    finished = decoder.step()
            return finished
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not _out_of_memory(error):
                raise
        # Outside `except`: inside, the traceback would keep the tensors alive.
        rows = [*self._decoding, *(row for row in new if row not in self._decoding)]
        if self._decoder:
            self._decoder.clear()
        self._make_do_with_less(rows)
        for row in rows:
            row.reset()
        return []

    def _decoder_for(self, row: Row) -> Decoder:
        if can_join(self.model, row.transcript.renderer.end):
            return JoiningDecoder(self.model, self.sampling, self.caches)
        return WholeBatchDecoder(self.model, self.sampling)

    def _make_do_with_less(self, rows: list[Row]) -> None:
        """Give up what is kept, or else halve the batch's budget until these rows, which did not fit, take
        more than one."""
        again = self.model in _budgets
        before = self.tokens, self.caches.limit
        if len(self.caches):
            self.caches.clear()
            self.caches.limit //= 2
        elif len(rows) == 1:
            raise UserError(
                f"student.generation_tokens: a single dialogue of {len(rows[0].transcript.ids)} tokens with"
                f" an answer of up to {self.sampling.max_tokens} does not fit in memory; lower"
                " student.max_turn_tokens, student.max_pixels or the number of turns, set"
                " student.lora_rank, or use a larger GPU"
            )
        else:
            while self.fits(rows):
                self.tokens //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not again:
            _log.warning(
                "out of memory: decoding again with batches of %s tokens instead of %s and %s tokens kept"
                " instead of %s, and fewer if needed; lower student.generation_tokens and"
                " student.kept_tokens to avoid this",
                *(f"{number:,}" for number in (self.tokens, before[0], self.caches.limit, before[1])),
            )
        _budgets[self.model] = self.tokens, self.caches.limit

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """The model in evaluation mode. What was kept by other weights is dropped."""
        weights = sum(weight._version for weight in self.model.parameters())
        if weights != self._weights:
            self.caches.clear()
            self._weights = weights
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)


def in_process(student: SampledStudent) -> TransformersPolicy:
    """Make an in-process policy for a model with the student's settings. A `PolicyOf`."""
    settings = student.settings
    sampling = Sampling(settings.max_turn_tokens, student.temperature)
    half = settings.dtype == "bfloat16"
    return TransformersPolicy(student.model, sampling, settings.generation_tokens, settings.kept_tokens, half)


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()
