"""The student's dialogue as token ids. The only place that knows chat tokens.

Exact ids in, exact ids out: what the student sampled is never decoded and tokenised again. Text from outside is always
plain text (its special tokens are split), a turn cut off by the token limit is closed with tokens that carry no loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from safer_steer.errors import UserError
from safer_steer.prompts.markers import split_markers


@dataclass
class Pictures:
    """What the vision tower takes, for all pictures of one dialogue."""

    pixel_values: torch.Tensor
    """[patches, channels * temporal * patch * patch]"""
    grid: torch.Tensor
    """[pictures, 3]: patches in time, height, width."""
    tokens: list[int]
    """Image tokens each picture takes in the prompt."""


class ChatTokens:
    """The ChatML tokens of one processor of the Qwen-VL family.

    Raises:
        UserError: the processor's chat template renders something else than ChatML, so ids would not match it.
    """

    def __init__(self, processor: Any, system: str) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.end: int = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.pad: int = self.tokenizer.pad_token_id
        self.image_token: int = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.stops: list[int] = sorted({self.end, *self.tokenizer.all_special_ids})
        """A turn ends where any of these is sampled; all but `end` are left out of the transcript."""
        self._system = self._markup(f"<|im_start|>system\n{system}<|im_end|>\n") if system else []
        self._user = self._markup("<|im_start|>user\n")
        self._vision = self._markup("<|vision_start|>"), self._markup("<|vision_end|>")
        self._ask = self._markup("<|im_end|>\n<|im_start|>assistant\n")
        self._newline = self._markup("\n")
        self._check_template(system)

    def _markup(self, text: str) -> list[int]:
        """Our own scaffolding: here special tokens are meant."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def plain(self, text: str) -> list[int]:
        """Ids of text from outside; `<|im_end|>` and its like become ordinary characters."""
        return list(self.tokenizer(text.strip(), add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def decode(self, ids: list[int]) -> str:
        """The text of sampled tokens without their end token."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def look(self, images: list[Image.Image]) -> Pictures | None:
        """Prepare a dialogue's pictures; None if it has none."""
        if not images:
            return None
        features = self.processor.image_processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        grid = features["image_grid_thw"]
        merge = self.processor.image_processor.merge_size**2
        return Pictures(features["pixel_values"], grid, [int(row.prod()) // merge for row in grid])

    def _check_template(self, system: str) -> None:
        talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
        if system:
            talk.insert(0, {"role": "system", "content": system})
        wanted = self.tokenizer.apply_chat_template(
            talk, tokenize=True, add_generation_prompt=True, return_dict=False, chat_template=self.processor.chat_template
        )
        ours = Transcript(self, None)
        ours.add_user("a")
        ours.add_assistant([*self.plain("b"), self.end], [0.0, 0.0])
        ours.add_user("c")
        if list(wanted) != ours.ids:
            raise UserError(f"student {self.tokenizer.name_or_path}: its chat template is not ChatML; choose a model of the Qwen-VL family")


@dataclass
class Transcript:
    """One dialogue's ids, with a mask of 1 on sampled assistant tokens alone (their end token included)."""

    chat: ChatTokens
    pictures: Pictures | None
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Of the sampled tokens under the sampling temperature; 0 where the mask is 0."""
    first_prompt: int = 0
    """Length of the first prompt: up to where the assistant speaks first."""

    def copy(self) -> Transcript:
        """The same so far; appending to one leaves the other alone."""
        return replace(self, ids=list(self.ids), mask=list(self.mask), logprobs=list(self.logprobs))

    def _extend(self, ids: list[int], sampled: int = 0, logprobs: list[float] | None = None) -> None:
        self.ids += ids
        self.mask += [sampled] * len(ids)
        self.logprobs += logprobs if logprobs is not None else [0.0] * len(ids)

    def add_user(self, text: str) -> None:
        """Append a user turn and the assistant's opening; the pictures stand before the first turn's text."""
        chat = self.chat
        if not self.ids:
            self._extend(chat._system + chat._user)
            start, end = chat._vision
            for count in self.pictures.tokens if self.pictures else []:
                self._extend([*start, *[chat.image_token] * count, *end])
        else:
            self._extend(chat._newline + chat._user)
        self._extend(chat.plain(split_markers(text)) + chat._ask)
        self.first_prompt = self.first_prompt or len(self.ids)

    def add_assistant(self, ids: list[int], logprobs: list[float]) -> None:
        """Append what was sampled. A turn without its end token is closed with one that carries no loss."""
        self._extend(ids, 1, logprobs)
        if not ids or ids[-1] != self.chat.end:
            self._extend([self.chat.end])

    @property
    def prompt_ids(self) -> list[int]:
        """Everything before the assistant's first token."""
        return self.ids[: self.first_prompt]

    @property
    def completion_ids(self) -> list[int]:
        """Everything from the assistant's first token on, later user turns included."""
        return self.ids[self.first_prompt :]


def model_inputs(transcripts: list[Transcript], side: str, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """A padded batch for the model: input_ids and attention_mask [batch, tokens], mm_token_type_ids, and all pictures concatenated."""
    chat = transcripts[0].chat
    width = max(len(t.ids) for t in transcripts)
    ids = torch.full((len(transcripts), width), chat.pad)
    attention = torch.zeros_like(ids)
    for row, transcript in enumerate(transcripts):
        span = slice(width - len(transcript.ids), width) if side == "left" else slice(0, len(transcript.ids))
        ids[row, span] = torch.tensor(transcript.ids)
        attention[row, span] = 1
    batch = {"input_ids": ids, "attention_mask": attention, "mm_token_type_ids": (ids == chat.image_token).long()}
    seen = [t.pictures for t in transcripts if t.pictures]
    if seen:
        batch["pixel_values"] = torch.cat([p.pixel_values for p in seen])
        batch["image_grid_thw"] = torch.cat([p.grid for p in seen])
    return {name: tensor.to(device) for name, tensor in batch.items()}


def labels(transcripts: list[Transcript], width: int) -> torch.Tensor:
    """Targets [batch, tokens] for right-padded inputs: the sampled tokens, -100 elsewhere."""
    targets = torch.full((len(transcripts), width), -100)
    for row, transcript in enumerate(transcripts):
        ids, mask = torch.tensor(transcript.ids), torch.tensor(transcript.mask)
        targets[row, : len(ids)] = torch.where(mask == 1, ids, -100)
    return targets
