"""The student as the assistant: a policy that answers, and the exact tokens of each dialogue."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from safer_steer.config import Student
from safer_steer.dialogue import Dialogue, Turn
from safer_steer.episode import ContextFull, Reply
from safer_steer.errors import UserError
from safer_steer.files.images import Picture, PicturesOf
from safer_steer.student.policy import Completion, Policy
from safer_steer.student.renderer import Renderer
from safer_steer.student.transcript import Transcript


def open_images(pictures: Sequence[Picture]) -> list[Image.Image]:
    """Decode pictures to RGB, as the trainers do."""
    images = []
    for picture in pictures:
        with Image.open(BytesIO(picture.data)) as image:
            images.append(image.convert("RGB"))
    return images


def shown_in(pictures_of: PicturesOf, dialogue: Dialogue) -> list[list[Image.Image]]:
    """The pictures of each user turn."""
    return [open_images(pictures_of(images)) for images in dialogue.images_by_turn()]


def add_user(transcript: Transcript, text: str, pictures: Sequence[Picture]) -> None:
    """Append a user turn with its pictures. Raises `UserError` if the processor does not take one of the
    pictures; names them."""
    images = open_images(pictures)
    try:
        transcript.add_user(text, images)
    except UserError:
        raise
    except Exception as error:  # processors raise errors of many kinds
        if not images:
            raise
        names = ", ".join(
            f"{picture.name} ({image.width} x {image.height})"
            for picture, image in zip(pictures, images, strict=True)
        )
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{names}: the student's processor does not take this ({reason}); leave out the rows that show it"
            " and start over with --fresh"
        ) from None


class StudentAssistant:
    """An assistant backed by a policy. Keeps the exact tokens of each dialogue for as long as the dialogue
    object exists."""

    def __init__(
        self,
        policy: Policy,
        renderer: Renderer,
        student: Student,
        pictures_of: PicturesOf,
        key: str,
        max_completion: int | None = None,
    ) -> None:
        """`key`, the dialogue id and the turn number seed the sampling. `max_completion` limits the tokens
        after the first prompt."""
        self.policy, self.renderer, self.student, self.pictures_of = policy, renderer, student, pictures_of
        self.key, self.max_completion = key, max_completion
        self._transcripts: dict[int, tuple[Transcript, Transcript | None]] = {}
        """The transcript with the last answer, and that before it, for a user that takes its turn back."""
        self._opening: tuple[tuple[str, list[str]], Transcript] | None = None
        """The last first turn, by what it says and shows: the trajectories of a group follow one another."""

    def transcript(self, dialogue: Dialogue) -> Transcript | None:
        """The transcript so far; None before the first answer."""
        last, before = self._transcripts.get(id(dialogue), (None, None))
        return before if last and len(last.ends) > len(dialogue.turns) else last

    def forget(self, dialogue: Dialogue) -> None:
        """Keep the tokens and pictures of a dialogue no longer, though the object goes on."""
        self._transcripts.pop(id(dialogue), None)

    def asked(self, dialogue: Dialogue, turn: Turn) -> Transcript:
        """A copy of the transcript so far with the next user turn and its pictures."""
        pictures = self.pictures_of(dialogue.images_by_turn(turn)[-1])
        if before := self.transcript(dialogue):
            transcript = before.copy()
            add_user(transcript, turn.user, pictures)
            return transcript
        key = turn.user, [picture.sha256 for picture in pictures]
        if not self._opening or self._opening[0] != key:
            transcript = Transcript(self.renderer)
            add_user(transcript, turn.user, pictures)
            self._opening = key, transcript
        return self._opening[1].twin()

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        """Sample the answer to the turn `asked`. Raises `ContextFull` if turn and answer do not fit; the
        transcript then stays unchanged."""
        transcript = self._with_room(dialogue, asked)
        completion = await self.policy.reply(transcript, self._key(dialogue, asked))
        return self._go_on(dialogue, transcript, completion)

    async def answers(self, dialogue: Dialogue, asked: Turn, count: int) -> tuple[Reply, list[Completion]]:
        """Sample `count` answers to the turn `asked`; the dialogue goes on with the first. Raises as `answer`
        does."""
        transcript, key = self._with_room(dialogue, asked), self._key(dialogue, asked)
        others = [transcript.twin() for _ in range(1, count)]
        sampled = await asyncio.gather(
            self.policy.reply(transcript, key),
            *(self.policy.reply(other, f"{key} {number}") for number, other in enumerate(others, 1)),
        )
        return self._go_on(dialogue, transcript, sampled[0]), list(sampled)

    def _key(self, dialogue: Dialogue, asked: Turn) -> str:
        back = len(asked.taken_back)
        return f"{self.key} {dialogue.id} {len(dialogue.turns)}" + (f" back {back}" if back else "")

    def _with_room(self, dialogue: Dialogue, asked: Turn) -> Transcript:
        transcript = self.asked(dialogue, asked)
        room = self.student.max_turn_tokens + 1
        longest = self.max_completion or self.student.max_length
        if (
            len(transcript.ids) + room > self.student.max_length
            or len(transcript.completion_ids) + room > longest
        ):
            raise ContextFull
        return transcript

    def _go_on(self, dialogue: Dialogue, transcript: Transcript, completion: Completion) -> Reply:
        before = self.transcript(dialogue)
        transcript.add_assistant(completion.token_ids, completion.logprobs)
        if id(dialogue) not in self._transcripts:
            weakref.finalize(dialogue, self._transcripts.pop, id(dialogue), None)
        self._transcripts[id(dialogue)] = transcript, before
        return Reply(completion.text, {"finish": completion.finish, "tokens": len(completion.token_ids)})
