"""The student's dialogue as token ids. The renderer supplies the tokens specific to a model.

Sampled ids are kept exactly; they are never decoded and tokenised again. External text is always plain text
(its special tokens are split). A turn cut off by the token limit is closed with tokens that carry no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from safer_steer.student.renderer import Renderer


class Origin:
    """Identity of a dialogue: what the copies of a transcript have in common."""


@dataclass
class Transcript:
    """The ids of one dialogue. The mask is 1 only on sampled assistant tokens, end token included."""

    renderer: Renderer
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Log-probabilities of the sampled tokens at the sampling temperature; 0 where the mask is 0."""
    aligned: dict[str, list[int]] = field(default_factory=dict)
    """Further model inputs with one number for each token; 0 on answers."""
    pictures: list[dict[str, torch.Tensor]] = field(default_factory=list)
    """Inputs of the vision tower, of each user turn that shows pictures."""
    images: list[Image.Image] = field(default_factory=list)
    """The pictures themselves, in order, for an engine that prepares them on its own."""
    first_prompt: int = 0
    """Length of the first prompt, that is, everything before the assistant's first token."""
    ends: list[int] = field(default_factory=list)
    """Place of each answer's last token, which carries no loss if it was not sampled."""
    origin: Origin = field(default_factory=Origin, compare=False, repr=False)
    """The same object in all copies."""

    @classmethod
    def of(
        cls, renderer: Renderer, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]] = ()
    ) -> Transcript:
        """The dialogue of these texts, users and assistants in turn, as if the answers had been sampled.
        `pictures` are those of each user turn, as in `Renderer.talk`. Raises as `add_user` does."""
        transcript = cls(renderer)
        for number, text in enumerate(texts):
            if number % 2:
                transcript.add_answer(text)
            else:
                transcript.add_user(text, pictures[number // 2] if number // 2 < len(pictures) else ())
        return transcript

    def copy(self) -> Transcript:
        """An independent copy: appending to one does not change the other."""
        return replace(
            self,
            ids=list(self.ids),
            mask=list(self.mask),
            logprobs=list(self.logprobs),
            aligned={name: list(row) for name, row in self.aligned.items()},
            pictures=list(self.pictures),
            ends=list(self.ends),
            images=list(self.images),
        )

    def twin(self) -> Transcript:
        """A copy that is another dialogue, with the same beginning."""
        return replace(self.copy(), origin=Origin())

    def _extend(self, ids: list[int], sampled: int = 0, logprobs: list[float] | None = None) -> None:
        self.ids += ids
        self.mask += [sampled] * len(ids)
        self.logprobs += logprobs if logprobs is not None else [0.0] * len(ids)

    def add_user(self, text: str, images: Sequence[Image.Image] = ()) -> None:
        """Append a user turn, with its pictures before its text, and the assistant's opening. Raises
        `UserError` if the template takes no pictures in a later turn than the first."""
        turn = self.renderer.user_turn(text, images, first=not self.ids)
        ended = int(bool(self.ids))  # the last answer has brought its end token already
        before = len(self.ids)
        self._extend(turn.ids[ended:])
        for name, row in turn.aligned.items():
            values = self.aligned.setdefault(name, [])
            values += [0] * (before - len(values)) + row[ended:]
        if turn.pictures:
            self.pictures.append(turn.pictures)
            self.images += images
        self.first_prompt = self.first_prompt or len(self.ids)

    def add_assistant(self, ids: list[int], logprobs: list[float]) -> None:
        """Append a sampled turn. If its end token is missing, one is added that carries no loss."""
        self._extend(ids, 1, logprobs)
        if not ids or ids[-1] != self.renderer.end:
            self._extend([self.renderer.end])
        self.ends.append(len(self.ids) - 1)

    def add_answer(self, text: str) -> None:
        """Append a given answer as if it had been sampled, its end token included."""
        ids = [*self.renderer.plain(text), self.renderer.end]
        self.add_assistant(ids, [0.0] * len(ids))

    def after(self, tokens: int, turns: int) -> Transcript:
        """The rest of the model inputs after so many tokens and so many turns that show pictures."""
        rest = {name: row[tokens:] for name, row in self.aligned.items()}
        return Transcript(self.renderer, self.ids[tokens:], aligned=rest, pictures=self.pictures[turns:])

    @property
    def prompt_ids(self) -> list[int]:
        """Everything before the assistant's first token."""
        return self.ids[: self.first_prompt]

    @property
    def completion_ids(self) -> list[int]:
        """Everything from the assistant's first token on, including later user turns."""
        return self.ids[self.first_prompt :]


def padded(rows: list[list[int]], filler: int, side: str) -> torch.Tensor:
    """Rows as one tensor [batch, tokens], filled up on `side`: `left` or `right`."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=filler, padding_side=side)


def joined(parts: list[torch.Tensor], dim: int) -> torch.Tensor:
    """The tensors concatenated along `dim`. In other dimensions smaller ones are filled up with zeros."""
    largest = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    filled = []
    for part in parts:
        largest[dim] = part.shape[dim]
        whole = part.new_zeros(largest)
        whole[tuple(map(slice, part.shape))] = part
        filled.append(whole)
    return torch.cat(filled, dim)


def pictures_of(
    dialogues: list[list[dict[str, torch.Tensor]]], rowwise: frozenset[str]
) -> dict[str, torch.Tensor]:
    """The picture inputs of dialogues, each given as those of its turns; empty if there is no picture.

    Args:
        rowwise: inputs of shape [dialogues, pictures, ...]. There a dialogue without pictures has a row of
            zeros, which models of this kind ignore. Of all others, a picture may have some alone.

    Raises:
        KeyError: a turn lacks an input of `rowwise`.
    """
    turns = [turn for dialogue in dialogues for turn in dialogue]
    batch = {}
    for name in dict.fromkeys(name for turn in turns for name in turn):
        if name in rowwise:
            some = turns[0][name]
            none = some.new_zeros([1, 1, *some.shape[2:]])
            rows = [[turn[name] for turn in dialogue] or [none] for dialogue in dialogues]
            batch[name] = joined([joined(row, 1) for row in rows], 0)
        else:
            batch[name] = joined([turn[name] for turn in turns if name in turn], 0)
    return batch


def model_inputs(
    transcripts: list[Transcript],
    side: str,
    device: torch.device | str = "cpu",
) -> dict[str, torch.Tensor]:
    """A batch for the model: input_ids, attention_mask and other token-aligned inputs [batch, tokens], padded
    on `side`, and the inputs of all pictures."""
    rows = [transcript.ids for transcript in transcripts]
    renderer = transcripts[0].renderer
    batch = {
        "input_ids": padded(rows, renderer.pad, side),
        "attention_mask": padded([[1] * len(row) for row in rows], 0, side),
    }
    for name in transcripts[0].aligned:
        values = [transcript.aligned[name] for transcript in transcripts]
        whole = [row + [0] * (len(ids) - len(row)) for row, ids in zip(values, rows, strict=True)]
        batch[name] = padded(whole, 0, side)
    batch |= pictures_of([transcript.pictures for transcript in transcripts], renderer.rowwise)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def labels(transcripts: list[Transcript], width: int) -> torch.Tensor:
    """Labels [batch, tokens] for right-padded inputs: the sampled tokens, and -100 elsewhere."""
    targets = torch.full((len(transcripts), width), -100)
    for row, transcript in enumerate(transcripts):
        ids, mask = torch.tensor(transcript.ids), torch.tensor(transcript.mask)
        targets[row, : len(ids)] = torch.where(mask == 1, ids, -100)
    return targets
