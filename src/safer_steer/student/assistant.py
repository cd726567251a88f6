"""The student in the assistant's seat: a policy that answers, and each dialogue's exact tokens."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageOps

from safer_steer.config import Student
from safer_steer.dialogue import Dialogue
from safer_steer.episode import ContextFull, Reply
from safer_steer.images import Picture, PicturesOf
from safer_steer.student.policy import Policy
from safer_steer.student.renderer import Renderer
from safer_steer.student.transcript import Transcript


def open_images(pictures: Sequence[Picture]) -> list[Image.Image]:
    """Decode pictures to RGB, upright as `datasets` decodes them for the trainers (a photograph's EXIF
    orientation)."""
    images = []
    for picture in pictures:
        with Image.open(BytesIO(picture.data)) as image:
            images.append(ImageOps.exif_transpose(image).convert("RGB"))
    return images


class StudentAssistant:
    """The assistant's seat, filled by a policy. Keeps each dialogue's transcript, token for token, as long as
    the dialogue lives."""

    def __init__(
        self,
        policy: Policy,
        renderer: Renderer,
        student: Student,
        pictures_of: PicturesOf,
        key: str,
        max_completion: int | None = None,
    ) -> None:
        """`key` seeds the sampling together with dialogue id and turn; `max_completion` bounds the tokens
        after the first prompt."""
        self.policy, self.renderer, self.student, self.pictures_of = policy, renderer, student, pictures_of
        self.key, self.max_completion = key, max_completion
        self._transcripts: dict[int, Transcript] = {}

    def transcript(self, dialogue: Dialogue) -> Transcript | None:
        """What was exchanged with the student so far; None before its first answer."""
        return self._transcripts.get(id(dialogue))

    def begin(self, dialogue: Dialogue) -> Transcript:
        """An empty transcript with the dialogue's pictures."""
        return Transcript(self.renderer, self.renderer.pictures(open_images(self.pictures_of(dialogue))))

    async def answer(self, dialogue: Dialogue, question: str) -> Reply:
        """Sample the next turn. Raises `ContextFull` if question and answer do not fit; the transcript then
        stays as it was."""
        transcript = (self.transcript(dialogue) or self.begin(dialogue)).copy()
        transcript.add_user(question)
        room = self.student.max_turn_tokens + 1
        longest = self.max_completion or self.student.max_length
        if (
            len(transcript.ids) + room > self.student.max_length
            or len(transcript.completion_ids) + room > longest
        ):
            raise ContextFull
        completion = await self.policy.reply(transcript, f"{self.key} {dialogue.id} {len(dialogue.turns)}")
        transcript.add_assistant(completion.token_ids, completion.logprobs)
        if id(dialogue) not in self._transcripts:
            weakref.finalize(dialogue, self._transcripts.pop, id(dialogue), None)
        self._transcripts[id(dialogue)] = transcript
        return Reply(completion.text, {"finish": completion.finish, "tokens": len(completion.token_ids)})
