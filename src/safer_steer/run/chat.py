"""A dialogue with one of a run's students, in the terminal."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import NamedTuple

from safer_steer.config import Config, ModelName
from safer_steer.dialogue import Dialogue, Format, Kind, Turn, visible_answer
from safer_steer.errors import UserError
from safer_steer.files.images import Picture, picture_from
from safer_steer.files.manifest import Manifest
from safer_steer.files.store import refuse_address
from safer_steer.run.agents import sampling_student, weights_of
from safer_steer.stages import TRAINED_BY

_THINKING = re.compile(r"<thinking>(.*?)</thinking>", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters but tab and new line: a model must not steer the terminal."""


class Answer(NamedTuple):
    """What a student said, to be shown."""

    thinking: str
    """"" if it wrote none, or the format has none."""
    text: str


def last_trained(folder: Path) -> ModelName:
    """The run's model that was trained last; the base if none is finished."""
    manifest = Manifest(folder)
    for model in ("safer_steer", "sft"):
        if all(manifest.finished(stage) for stage in TRAINED_BY[model]):
            return model
    return "base"


class Conversation:
    """A dialogue with a student, whose weights are loaded when it is made.

    The same `seed`, pictures and words give the same answers; `temperature` is that of the bench by default.
    Raises `UserError` if the run has not trained this model yet, or the student cannot be loaded."""

    def __init__(
        self, config: Config, folder: Path, model: ModelName, temperature: float | None = None, seed: int = 0
    ) -> None:
        manifest = Manifest(folder)
        for stage in TRAINED_BY[model]:
            if not manifest.finished(stage):
                raise UserError(
                    f"{folder}: {model} is not trained yet; run `safer-steer {stage}`, or give --model base"
                )
        self.config = config
        self._pictures: dict[str, Picture] = {}
        self._assistant = sampling_student(
            config,
            weights_of(folder, model),
            config.bench.temperature if temperature is None else temperature,
            f"chat {seed}",
            lambda images: [self._pictures[image] for image in images],
        )
        self._loop = asyncio.new_event_loop()
        self.begin()

    def begin(self, image: str | Path | None = None) -> None:
        """Start a new dialogue, about a picture or about none. Raises `UserError` if the picture cannot be
        used; the dialogue before it goes on then."""
        images = [self._read(image)] if image is not None else []
        self.dialogue = Dialogue(id="chat", kind=Kind.BENIGN, images=images)
        self._next: list[str] = []

    def show(self, image: str | Path) -> None:
        """Show a picture with the next question. Raises `UserError` if it cannot be used."""
        self._next.append(self._read(image))

    def _read(self, image: str | Path) -> str:
        """Keep a picture; returns its hash, by which the dialogue names it."""
        refuse_address(str(image))
        path = Path(image).expanduser()
        try:
            data = path.read_bytes()
        except (OSError, ValueError):
            raise UserError(f"{image}: no such picture; give the path of a file") from None
        picture = picture_from(data, path.name, self.config.student.max_pixels, str(image))
        self._pictures[picture.sha256] = picture
        return picture.sha256

    def ask(self, question: str) -> Answer:
        """The student's answer, which becomes part of the dialogue. Raises `ContextFull` if that is too long
        for another turn, `UserError` if the student takes no pictures in a later turn than the first."""
        turn = Turn(user=question, images=self._next)
        self._next = []
        reply = self._loop.run_until_complete(self._assistant.answer(self.dialogue, turn))
        turn.assistant, turn.meta = reply.text, reply.meta
        self.dialogue.turns.append(turn)
        return _parts(reply.text, self.config.student.format)

    def close(self) -> None:
        """Close connections and the event loop."""
        from safer_steer.endpoints.clients import close_all

        self._loop.run_until_complete(close_all())
        self._loop.close()


def _parts(text: str, format: Format) -> Answer:
    """An answer without the block that the format asks for is shown as it is."""
    text = _CONTROL.sub("", text)
    answer = visible_answer(text, format)
    thought = _THINKING.search(text) if format is Format.THINKING_ANSWER else None
    return Answer(thought[1].strip() if thought and answer else "", answer or text.strip())
