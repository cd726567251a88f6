"""The student's dialogue as token ids. The renderer supplies the tokens specific to a model family.

Sampled ids are kept exactly; they are never decoded and tokenised again. External text is always plain text
(its special tokens are split). A turn cut off by the token limit is closed with tokens that carry no loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from safer_steer.prompts.markers import split_markers
from safer_steer.student.renderer import Pictures, Renderer


@dataclass
class Transcript:
    """The ids of one dialogue. The mask is 1 only on sampled assistant tokens, end token included."""

    renderer: Renderer
    pictures: Pictures | None
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Log-probabilities of the sampled tokens at the sampling temperature; 0 where the mask is 0."""
    first_prompt: int = 0
    """Length of the first prompt, that is, everything before the assistant's first token."""

    def copy(self) -> Transcript:
        """An independent copy: appending to one does not change the other."""
        return replace(self, ids=list(self.ids), mask=list(self.mask), logprobs=list(self.logprobs))

    def _extend(self, ids: list[int], sampled: int = 0, logprobs: list[float] | None = None) -> None:
        self.ids += ids
        self.mask += [sampled] * len(ids)
        self.logprobs += logprobs if logprobs is not None else [0.0] * len(ids)

    def add_user(self, text: str) -> None:
        """Append a user turn and the assistant's opening. Pictures come before the text of the first turn."""
        renderer = self.renderer
        if self.ids:
            self._extend(renderer.user_start)
        else:
            self._extend(renderer.opening + (self.pictures.ids if self.pictures else []))
        self._extend(renderer.plain(split_markers(text)) + renderer.user_end)
        self.first_prompt = self.first_prompt or len(self.ids)

    def add_assistant(self, ids: list[int], logprobs: list[float]) -> None:
        """Append a sampled turn. If its end token is missing, one is added that carries no loss."""
        self._extend(ids, 1, logprobs)
        if not ids or ids[-1] != self.renderer.end:
            self._extend([self.renderer.end])

    @property
    def prompt_ids(self) -> list[int]:
        """Everything before the assistant's first token."""
        return self.ids[: self.first_prompt]

    @property
    def completion_ids(self) -> list[int]:
        """Everything from the assistant's first token on, including later user turns."""
        return self.ids[self.first_prompt :]


def model_inputs(
    transcripts: list[Transcript],
    side: str,
    device: torch.device | str = "cpu",
) -> dict[str, torch.Tensor]:
    """A batch for the model: input_ids and attention_mask [batch, tokens], padded on `side`, and pictures."""
    rows = [transcript.ids for transcript in transcripts]
    pictures = [transcript.pictures for transcript in transcripts if transcript.pictures]
    batch = transcripts[0].renderer.inputs(rows, pictures, side)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def labels(transcripts: list[Transcript], width: int) -> torch.Tensor:
    """Labels [batch, tokens] for right-padded inputs: the sampled tokens, and -100 elsewhere."""
    targets = torch.full((len(transcripts), width), -100)
    for row, transcript in enumerate(transcripts):
        ids, mask = torch.tensor(transcript.ids), torch.tensor(transcript.mask)
        targets[row, : len(ids)] = torch.where(mask == 1, ids, -100)
    return targets
