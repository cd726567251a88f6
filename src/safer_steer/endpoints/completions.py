"""From the body of a chat completion to a `ChatReply`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safer_steer.endpoints.transport import ChatReply

MOST_TOKENS = 10**9
"""A larger count is a mistake of the endpoint, and would end the run at its spending limit."""


@dataclass(frozen=True)
class Usage:
    """The token counts that came with a reply. `wrong` shows a count that cannot be true; it was replaced
    by 0."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    wrong: str = ""


def read_completion(data: Any, most: int) -> tuple[ChatReply, Usage]:
    """The first choice of a chat completion, and its usage. Content in parts is joined.

    Args:
        most: characters; a longer text is cut, and counts as cut off by the token limit.

    Raises:
        ValueError: `data` is not a chat completion, or one that broke off (OpenRouter says so by the finish
            reason `error`).
    """
    try:
        choice = data["choices"][0]
        message = choice["message"]
        refusal = message.get("refusal")
        text = _text(message.get("content")) or _text(refusal)
        finish = "length" if len(text) > most else _writable(str(choice.get("finish_reason") or "stop"))[:40]
        usage = _usage(data.get("usage"))
    except (LookupError, TypeError, AttributeError):
        raise ValueError("the reply holds no message") from None
    if finish == "error":
        raise ValueError("the reply broke off (finish_reason error)")
    reply = ChatReply(
        _writable(text[:most]),
        usage.prompt,
        usage.completion,
        finish=finish,
        refusal=bool(refusal) or finish == "content_filter",
        reasoning_tokens=usage.reasoning,
    )
    return reply, usage


def _text(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts, of which those with text count."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    return "" if content is None else str(content)


def _writable(text: str) -> str:
    """Half a surrogate pair can be neither hashed nor stored; it becomes "?"."""
    return text.encode("utf-8", "replace").decode()


def _usage(found: Any) -> Usage:
    if not isinstance(found, dict):
        return Usage()
    details = found.get("completion_tokens_details")
    reasoning = details.get("reasoning_tokens") if isinstance(details, dict) else None
    counts = [found.get("prompt_tokens"), found.get("completion_tokens"), reasoning]
    wrong = [count for count in counts if count is not None and not _plausible(count)]
    prompt, completion, thought = [int(count or 0) if _plausible(count) else 0 for count in counts]
    return Usage(prompt, completion, thought, wrong=repr(wrong[0])[:40] if wrong else "")


def _plausible(count: Any) -> bool:
    return isinstance(count, int | float) and 0 <= count <= MOST_TOKENS
