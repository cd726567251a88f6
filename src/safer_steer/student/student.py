"""The student: its weights, its processor, and the assistant's seat it fills."""

from __future__ import annotations

import random
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from safer_steer.config import Student
from safer_steer.dialogue import Dialogue
from safer_steer.episode import ContextFull, Reply
from safer_steer.errors import UserError
from safer_steer.images import Picture, PicturesOf
from safer_steer.student.policy import Policy, Sampling
from safer_steer.student.transcript import ChatTokens, Transcript
from safer_steer.student.transformers_policy import TOKENS, TransformersPolicy


@dataclass
class LoadedStudent:
    """Weights and processor, ready to generate or to train."""

    model: Any
    chat: ChatTokens

    def policy(self, sampling: Sampling, tokens: int = TOKENS) -> TransformersPolicy:
        """In-process generation with these weights, in batches of at most so many `tokens`."""
        return TransformersPolicy(self.model, sampling, tokens)


def load_processor(path: str) -> Any:
    """The processor, padding on the left as generation needs (on the right, positions would be silently wrong)."""
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(path, padding_side="left")
    except (OSError, ValueError) as error:
        raise UserError(f"student {path}: cannot be loaded: {str(error).splitlines()[0]}") from None


def load_student(student: Student, path: Path | None = None, dtype: str | None = None) -> LoadedStudent:
    """Load the base student, or the weights a stage left at `path`, in the config's number type or another `dtype`.

    Raises:
        UserError: there is no such model, or its chat template is not ChatML.
    """
    from transformers import AutoModelForImageTextToText

    where = str(path) if path else student.base
    processor = load_processor(where)
    device = student.device if student.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForImageTextToText.from_pretrained(where, dtype=getattr(torch, dtype or student.dtype), use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(f"student {where}: cannot be loaded: {str(error).splitlines()[0]}") from None
    return LoadedStudent(model.to(device).eval(), ChatTokens(processor, student.system))


def open_images(pictures: Sequence[Picture]) -> list[Image.Image]:
    """Decode pictures to RGB, upright as `datasets` decodes them for the trainers (a photograph's EXIF orientation)."""
    images = []
    for picture in pictures:
        with Image.open(BytesIO(picture.data)) as image:
            images.append(ImageOps.exif_transpose(image).convert("RGB"))
    return images


class StudentAssistant:
    """The assistant's seat, filled by a policy. Keeps each dialogue's transcript, token for token, as long as the dialogue lives."""

    def __init__(self, policy: Policy, chat: ChatTokens, student: Student, pictures_of: PicturesOf, key: str, max_completion: int | None = None) -> None:
        """`key` seeds the sampling together with dialogue id and turn; `max_completion` bounds the tokens after the first prompt."""
        self.policy, self.chat, self.student, self.pictures_of = policy, chat, student, pictures_of
        self.key, self.max_completion = key, max_completion
        self._transcripts: dict[int, Transcript] = {}

    def transcript(self, dialogue: Dialogue) -> Transcript | None:
        """What was exchanged with the student so far; None before its first answer."""
        return self._transcripts.get(id(dialogue))

    def begin(self, dialogue: Dialogue) -> Transcript:
        """An empty transcript with the dialogue's pictures."""
        return Transcript(self.chat, self.chat.look(open_images(self.pictures_of(dialogue))))

    async def answer(self, dialogue: Dialogue, question: str) -> Reply:
        """Sample the next turn. Raises `ContextFull` if question and answer do not fit; the transcript then stays as it was."""
        transcript = (self.transcript(dialogue) or self.begin(dialogue)).copy()
        transcript.add_user(question)
        room = self.student.max_turn_tokens + 1
        longest = self.max_completion or self.student.max_length
        if len(transcript.ids) + room > self.student.max_length or len(transcript.completion_ids) + room > longest:
            raise ContextFull
        completion = await self.policy.reply(transcript, f"{self.key} {dialogue.id} {len(dialogue.turns)}")
        transcript.add_assistant(completion.token_ids, completion.logprobs)
        if id(dialogue) not in self._transcripts:
            weakref.finalize(dialogue, self._transcripts.pop, id(dialogue), None)
        self._transcripts[id(dialogue)] = transcript
        return Reply(completion.text, {"finish": completion.finish, "tokens": len(completion.token_ids)})


def seed_everything(seed: int) -> None:
    """Python's and torch's global generators, for what trainers draw from them."""
    random.seed(seed)
    torch.manual_seed(seed)
