"""A stub transport that makes no calls: it counts the rendered messages and pictures it receives, and answers
by rule."""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from safer_steer.config import Config, Role, RoleName
from safer_steer.endpoints.blind import BlindTransport, Captions
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.transport import ChatReply, Message, Transport
from safer_steer.plan.answers import Answers
from safer_steer.prompts.base import sections
from safer_steer.stages import CHAT

Participant = RoleName | Literal["student"]

CHARACTERS = 4
"""Characters per token, used if a model's tokenizer is not available."""


@dataclass
class Count:
    """Number of calls, and their input and output."""

    calls: float = 0
    images: float = 0
    text_tokens: float = 0
    image_tokens: float = 0
    tokens_out: float = 0
    upload_bytes: float = 0
    """Size of the texts in UTF-8 and the pictures in base64."""

    @property
    def tokens_in(self) -> float:
        return self.text_tokens + self.image_tokens

    def plus(self, other: Count, times: float = 1) -> Count:
        return Count(*(mine + times * its for mine, its in zip(astuple(self), astuple(other), strict=True)))


class CallCounts(defaultdict[tuple[Participant, str], Count]):
    """Counts by (participant, job)."""

    def __init__(self) -> None:
        super().__init__(Count)

    def add(self, other: CallCounts, times: float = 1) -> None:
        """Add another tally, multiplied by `times`."""
        for key, count in other.items():
            self[key] = self[key].plus(count, times)


def role_of(config: Config, participant: Participant) -> Role:
    """The settings of a participant's role."""
    return Role(model="student") if participant == "student" else config.role(participant)


class Meter:
    """Replaces all models of a config and counts their calls; `take` returns the counts."""

    def __init__(self, config: Config, answers: Answers) -> None:
        self.config, self.answers = config, answers
        self.tally = CallCounts()
        self.tokenized: set[Participant] = set()
        """Roles whose texts a tokenizer counts."""
        self._models: dict[str, ChatModel] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def ask(self, participant: Participant) -> ChatModel:
        """Replaces `run.ask`; needs no endpoint and no API key."""
        if participant not in self._models:
            role, transport = role_of(self.config, participant), CountingTransport(participant, self)
            self._models[participant] = ChatModel(participant, role, self._as_shown(role, transport))
        return self._models[participant]

    def _as_shown(self, role: Role, transport: CountingTransport) -> Transport:
        """The transport with what the role gets of a picture: the picture, its description or nothing."""
        if role.pictures is True:
            return transport
        if role.pictures is False or self.config.captioner is None:
            return BlindTransport(transport)
        return BlindTransport(transport, Captions(self.ask(self.config.captioner)).describe)

    def take(self) -> CallCounts:
        """Return and reset the counts."""
        taken, self.tally = self.tally, CallCounts()
        return taken

    def size(self, url: str) -> tuple[int, int]:
        """Width and height in pixels of the picture in a data URL, from its header."""
        if url not in self._sizes:
            with Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
                self._sizes[url] = picture.size
        return self._sizes[url]


class CountingTransport:
    """The stub transport of one participant (see `transport.Transport`)."""

    def __init__(self, participant: Participant, meter: Meter) -> None:
        self.participant, self.meter = participant, meter
        role = role_of(meter.config, participant)
        self.model = meter.config.student.model if role.who == "student" else role.model
        self._tokenizer = local_tokenizer(self.model)
        if self._tokenizer:
            meter.tokenized.add(participant)

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        texts, urls = _parts(messages)
        job = CHAT
        if schema is None:
            said = self.meter.answers.speak()
        else:
            job = texts[0].split("\n", 1)[0].removeprefix("Job: ")
            said = self.meter.answers.do(job, sections(texts[-1]), schema, repeat)
        count = Count(
            calls=1,
            images=len(urls),
            text_tokens=self._tokens("".join(texts)),
            image_tokens=sum(picture_tokens(*self.meter.size(url), self.model) for url in urls),
            tokens_out=self._tokens(said),
            upload_bytes=sum(len(text.encode(errors="replace")) for text in texts) + sum(map(len, urls)),
        )
        self.meter.tally[self.participant, job] = self.meter.tally[self.participant, job].plus(count)
        return ChatReply(said)

    def _tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text).ids) if self._tokenizer else len(text) // CHARACTERS


def picture_tokens(width: int, height: int, model: str) -> int:
    """Tokens of a picture by the rule of the Qwen-VL family: one per 28 x 28 pixels (patches of 14, merged
    2 x 2), or per 32 x 32 with Qwen3-VL and Qwen3.5."""
    side = 32 if any(name in model.lower() for name in ("qwen3-vl", "qwen3.5")) else 28
    return max(1, round(width / side)) * max(1, round(height / side))


def local_tokenizer(model: str) -> Any:
    """The tokenizer in a model's folder; None if there is none, or if the extra `student` is not
    installed."""
    file = Path(model) / "tokenizer.json"
    if not file.is_file() or find_spec("tokenizers") is None:
        return None
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def _parts(messages: list[Message]) -> tuple[list[str], list[str]]:
    """All texts and all pictures' data URLs, in order."""
    texts, urls = [], []
    for message in messages:
        content = message["content"]
        parts: list[dict[str, Any]] = (
            [{"type": "text", "text": content}] if isinstance(content, str) else content
        )
        texts.append("".join(part["text"] for part in parts if part["type"] == "text"))
        urls += [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return texts, urls
