"""Roles whose model takes no pictures (`pictures: false` or `pictures: caption` in the role's settings)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from safer_steer.config import Role
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.transport import ChatReply, Message, Transport
from safer_steer.files.images import Picture
from safer_steer.prompts.base import section, split_markers
from safer_steer.prompts.scripts import CAPTION, CaptionInput

if TYPE_CHECKING:
    from safer_steer.endpoints.endpoint import EndpointTransport

QUESTION = "What does the picture show?"
"""A caption is made once per picture, so it cannot depend on what a dialogue asks."""

Describe = Callable[[str], Awaitable[str]]
"""From a picture's data URL to its description."""


class BlindTransport:
    """Sends messages without their pictures, through another transport; `describe` makes the text that
    replaces a picture, if any does. A message is then one string, since some models without eyes take no list
    of parts."""

    def __init__(self, inner: Transport, describe: Describe | None = None) -> None:
        self.inner = inner
        self.describe = describe

    @property
    def not_taken(self) -> list[str]:
        """See `EndpointTransport.not_taken`."""
        return list(getattr(self.inner, "not_taken", ()))

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        """See `Transport.complete`. Also raises what `describe` raises."""
        return await self.inner.complete([await self._blind(message) for message in messages], schema, repeat)

    async def _blind(self, message: Message) -> Message:
        content = message["content"]
        if isinstance(content, str):
            return message
        texts = []
        for part in content:
            if part["type"] == "text":
                texts.append(part["text"])
            elif self.describe:
                described = section("picture_in_words", await self.describe(part["image_url"]["url"]))
                texts.append(f"You cannot see the picture. This describes it:\n{described}")
        return message | {"content": "\n\n".join(texts)}

    async def aclose(self) -> None:
        if hasattr(self.inner, "aclose"):
            await self.inner.aclose()


def endpoint_of(
    role: Role,
    captions: Callable[[], Captions],
    may_send: Callable[[], None] = lambda: None,
    lost: Callable[[ChatReply], object] = lambda reply: None,
) -> EndpointTransport | BlindTransport:
    """A role's endpoint; without pictures if its model takes none. `captions` is called if they are to be
    described instead; `may_send` and `lost` as by `EndpointTransport`. Raises `UserError` if it is not usable
    as configured."""
    from safer_steer.endpoints.endpoint import EndpointTransport  # the HTTP client; `cost` makes no calls

    endpoint = EndpointTransport(role, may_send, lost)
    if role.pictures is True:
        return endpoint
    return BlindTransport(endpoint, captions().describe if role.pictures == "caption" else None)


class Captions:
    """Descriptions of pictures by a model that sees. With a cache, a picture is paid for once."""

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        self._captions: dict[str, str] = {}

    async def describe(self, data_url: str) -> str:
        """Two or three sentences, and the text that can be read in the picture. Raises as `ChatModel.ask`
        does."""
        picture = _picture(data_url)
        if picture.sha256 not in self._captions:
            answer = await self.model.ask(CAPTION, CaptionInput(question=QUESTION), [picture])
            readable = f"\nText in the picture: {answer.readable_text}" if answer.readable_text else ""
            self._captions[picture.sha256] = split_markers(answer.caption + readable)
        return self._captions[picture.sha256]


def _picture(data_url: str) -> Picture:
    head, _, encoded = data_url.partition(",")
    data = base64.b64decode(encoded)
    mime = head.removeprefix("data:").removesuffix(";base64")
    return Picture("picture", data, hashlib.sha256(data).hexdigest(), mime)
