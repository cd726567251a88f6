"""How answers are decoded: rows of a batch, one token after the other.

| decoder                  | for                               | a row joins          | history    |
|--------------------------|-----------------------------------|----------------------|------------|
| `joining.JoiningDecoder` | attention over the whole dialogue | between two tokens   | read once  |
| `WholeBatchDecoder`      | every other model                 | with the whole batch | read again |

Each answer has its own random generator, seeded by its key, so what is drawn does not depend on the other
answers of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, LogitsProcessor

from safer_steer.student.modules import inside
from safer_steer.student.policy import Completion, Sampling, cut_at_its_end, seed_of
from safer_steer.student.transcript import Transcript, model_inputs


@dataclass(eq=False)
class Row:
    """An answer in the making."""

    key: str
    transcript: Transcript
    sampled: list[int] = field(default_factory=list)
    """Includes the token that ends the turn, whichever it is."""
    logprobs: list[float] = field(default_factory=list)
    generator: torch.Generator | None = None
    """None while the row waits."""

    def begin(self, device: torch.device) -> None:
        self.reset()
        self.generator = torch.Generator(device).manual_seed(seed_of(self.key))

    def reset(self) -> None:
        """Wait again, as if never begun."""
        self.sampled, self.logprobs, self.generator = [], [], None

    @property
    def begun(self) -> bool:
        return self.generator is not None

    def ended(self, sampling: Sampling) -> bool:
        return len(self.sampled) == sampling.max_tokens or (
            bool(self.sampled) and self.sampled[-1] in self.transcript.renderer.stops
        )

    @property
    def completion(self) -> Completion:
        """The answer, cut at the end of its turn."""
        return cut_at_its_end(self.sampled, self.logprobs, self.transcript.renderer)


class Decoder(Protocol):
    """Runs under `torch.no_grad`, with the model in evaluation mode."""

    rows: list[Row]
    """Those being decoded."""
    joins: bool
    """Whether rows can join those being decoded; otherwise only an empty batch takes rows."""
    prefilled: int
    """Tokens of questions and histories that the model has read so far, without padding."""

    def join(self, rows: list[Row]) -> list[Row]:
        """Take rows in. Returns those that are finished, which leave."""
        ...

    def step(self) -> list[Row]:
        """Decode at least one token of each row. Returns the rows that are finished, which leave."""
        ...

    def drop(self, rows: list[Row]) -> None:
        """Take out rows whose answers nobody waits for any more, if they are there."""
        ...

    def clear(self) -> None:
        """Take out all rows."""
        ...


def draw(scores: torch.Tensor, rows: list[Row], sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token for each row by adding Gumbel noise from the row's own generator.

    Args:
        scores: the model's logits [rows, vocabulary].

    Returns:
        Scores [rows, vocabulary] whose argmax is the drawn token, and its log-probability [rows, 1] at the
        sampling temperature.
    """
    logprobs = torch.log_softmax(scores.float() / (sampling.temperature or 1.0), -1)
    noisy = logprobs
    if sampling.temperature:
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, values in zip(rows, noise, strict=True):
            values.exponential_(generator=row.generator)
        noisy = logprobs - noise.log()
    return noisy, logprobs.gather(-1, noisy.argmax(-1, keepdim=True))


class _Sampler(LogitsProcessor):
    """Turns greedy search into sampling, and records the log-probabilities of the tokens drawn."""

    def __init__(self, rows: list[Row], sampling: Sampling) -> None:
        self.rows, self.sampling = rows, sampling
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores, logprobs = draw(scores, self.rows, self.sampling)
        self.logprobs.append(logprobs)
        return scores


class WholeBatchDecoder:
    """Decodes by the library's `generate`: every batch reads its histories again, and ends with its longest
    answer. A `Decoder`."""

    joins = False

    def __init__(self, model: Any, sampling: Sampling) -> None:
        self.model, self.sampling = model, sampling
        self.rows: list[Row] = []
        self.prefilled = 0

    def join(self, rows: list[Row]) -> list[Row]:
        for row in rows:
            row.begin(self.model.device)
        self.rows = rows
        return []

    def step(self) -> list[Row]:
        """Generate one left-padded batch to its end."""
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
        for row, ids, values in zip(rows, sampled, logprobs, strict=True):
            end = next((i + 1 for i, token in enumerate(ids) if token in renderer.stops), len(ids))
            row.sampled, row.logprobs = ids[:end], values[:end]
        self.rows = []
        return rows

    def drop(self, rows: list[Row]) -> None:
        self.rows = [row for row in self.rows if row not in rows]

    def clear(self) -> None:
        self.rows = []


@contextmanager
def _generating_by(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Temporarily replace the model's generation config.

    Otherwise values that `config` leaves unset would come from the model's own, and settings such as a
    repetition penalty are not part of the policy. PEFT copies its wrapper's config to the inner model, so
    both are restored.
    """
    holders = model, inside(model)  # the same one without PEFT
    own = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = config
    try:
        yield
    finally:
        for holder, before in zip(holders, own, strict=True):
            holder.generation_config = before
