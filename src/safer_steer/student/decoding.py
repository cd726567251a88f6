"""How answers are decoded: rows of a batch, one token after the other.

| decoder                           | for                               | a row joins          | history    |
|-----------------------------------|-----------------------------------|----------------------|------------|
| `joining.JoiningDecoder`          | attention over the whole dialogue | between two tokens   | read once  |
| `whole_batches.WholeBatchDecoder` | every other model                 | with the whole batch | read again |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from safer_steer.student.policy import Completion, Sampling, cut_at_its_end
from safer_steer.student.sampler import generator_of
from safer_steer.student.transcript import Transcript


@dataclass(eq=False)
class Row:
    """An answer in the making."""

    key: str
    transcript: Transcript
    sampled: list[int] = field(default_factory=list)
    """Includes the token that ends the turn, whichever it is."""
    logprobs: list[float] = field(default_factory=list)
    generator: torch.Generator | None = None

    def begin(self, device: torch.device) -> None:
        """Sample nothing yet, as if for the first time."""
        self.sampled, self.logprobs, self.generator = [], [], generator_of(self.key, device)

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


def inside(model: Any) -> Any:
    """The model itself, without PEFT's wrapper. Its adapters are in its layers."""
    return model.get_base_model() if hasattr(model, "peft_config") else model
