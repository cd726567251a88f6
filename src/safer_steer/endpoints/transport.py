"""The interface between a job and the model that does it: messages in, text out. Endpoints, the student and
the sandbox's agents are transports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from safer_steer.errors import EndpointError, RejectedError

SAMPLE = "X-Sample"
"""The HTTP header with `repeat`. A server that draws by what it is sent, as `safer-steer sandbox serve` does,
takes it into its draw; all others ignore it."""

Message = dict[str, Any]
"""An OpenAI chat message; pictures are `image_url` parts with a data URL."""


@dataclass(frozen=True)
class ChatReply:
    """One reply, with its token counts (0 if the transport does not report them)."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish: str = "stop"
    refusal: bool = False
    """The endpoint itself marked the reply as a refusal."""
    reasoning_tokens: int = 0
    """Those of the completion tokens that the model spent on reasoning, if the endpoint says so. The cache
    does not keep them."""


class AnsweredError(EndpointError):
    """The endpoint answered, with an error."""


class ContextLengthError(RejectedError):
    """The messages are too long for the model."""


class NoEyesError(RejectedError):
    """The model takes no pictures."""


class Transport(Protocol):
    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        """One reply to `messages`. `schema` is the JSON schema of the answer; `repeat` distinguishes samples
        that should differ. Raises an EndpointError if the endpoint did not respond after the transport's own
        retries, a RejectedError if it does not accept these messages."""
        ...
