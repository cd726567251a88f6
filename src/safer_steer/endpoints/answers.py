"""What an endpoint answers: a completion, or an error, what it means, and whether another try may help.

An HTTP status that is no 2xx is an error, and so is an error object in the body. Anything else with a 2xx is
a completion or a damaged reply; its words mean nothing here, whatever they are.
"""

from __future__ import annotations

import html
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from safer_steer.endpoints.clients import Answer
from safer_steer.endpoints.transport import ChatReply
from safer_steer.endpoints.wordings import REJECTED, Meaning, Wording, wording_of
from safer_steer.errors import shortened

_STATUS = re.compile("[45][0-9][0-9]")
"""A code that is the HTTP status of an error."""
_TITLE = re.compile(r"<(title|h1)\b[^>]*>(.*?)</\1", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Complaint:
    """An error: its HTTP status and OpenAI's fields, as far as the endpoint fills them."""

    status: int
    message: str
    code: str = ""
    kind: str = ""
    """OpenAI's `type`. Some servers put the code there."""
    param: str = ""

    @property
    def line(self) -> str:
        return f"HTTP {self.status}: {self.message}" if self.message else f"HTTP {self.status}"

    @property
    def wording(self) -> Wording | None:
        """The row of the table that it fits."""
        return wording_of(self.status, self._words, (self.code, self.kind))

    @property
    def _words(self) -> str:
        return f"{self.param} {self.message}"

    @property
    def meaning(self) -> Meaning | None:
        """What has to change, if the server's wording is known."""
        return self.wording.meaning if self.wording else None

    @property
    def rate_limited(self) -> bool:
        """A 429 that ends when fewer requests are sent. OpenAI also sends one if the money is used up, or if
        a single request exceeds the limit."""
        return self.status == 429 and self.meaning is None

    @property
    def passing(self) -> bool:
        """Whether another try may help."""
        if self.meaning is not None:
            return False
        return 200 <= self.status < 300 or self.status in (408, 409, 425, 429) or self.status >= 500

    @property
    def about_messages(self) -> bool:
        """The endpoint does not accept these messages, but may accept others."""
        meaning = self.meaning
        if meaning in (Meaning.TOO_LARGE, Meaning.PICTURES):
            return True
        return self.status in REJECTED and meaning is not Meaning.ACCOUNT

    def unsupported(self, names: list[str]) -> str:
        """The parameter that the endpoint does not take, of these; "" if it complains of none. Of two that
        it does not take together, the last."""
        if self.meaning is not Meaning.PARAMETER:
            return ""
        matches = [name for name in names if name in self._words]
        return matches[-1] if matches else ""


def complaint(answer: Answer) -> Complaint | None:
    """The error in an answer, or None if it is none: a completion, or a reply that cannot be read.

    If the code of an error object with a 2xx is an HTTP status, that one counts.
    """
    fine = 200 <= answer.status < 300
    data = answer.data[0] if isinstance(answer.data, list) and len(answer.data) == 1 else answer.data
    fields: dict[str, Any] = data if isinstance(data, dict) else {}
    error = fields.get("error")
    if fine and (not error or fields.get("choices")):
        return None
    if 300 <= answer.status < 400:
        place = answer.headers.get("location", "an address it does not name")
        return Complaint(answer.status, f"redirects to {place}; redirects are not followed, fix base_url")
    if isinstance(error, dict):
        fields = error
    detail = fields.get("message") or fields.get("detail") or error or answer.data
    message = str(detail) if detail else page(answer.text)
    code, kind, param = (str(fields.get(name) or "") for name in ("code", "type", "param"))
    status = answer.status
    if fine and _STATUS.fullmatch(code):
        status = int(code)
    return Complaint(status, message[:10_000], code, kind, param)


def retry_after_of(answer: Answer) -> float | None:
    """Seconds in the Retry-After header, from a number or an HTTP date; None if it has neither."""
    header = answer.headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(header))
    with suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return None


def page(text: str) -> str:
    """What a body that is not JSON says: an HTML page's title, or else the text."""
    if "<html" not in text[:1000].lower() and "<!doctype" not in text[:1000].lower():
        return shortened(text, 1000) or "an empty reply"
    match = _TITLE.search(text)
    title = html.unescape(re.sub(r"<[^>]*>", " ", match[2])) if match else ""
    return f"a web page{f', {shortened(title)!r}' if title.strip() else ''}, and no JSON"


# Completions -----------------------------------------------------------------

MOST_TOKENS = 10**9
"""A larger count is a mistake of the endpoint, and would end the run at its spending limit."""
_FILTERED = re.compile(
    r"content_filter|(?:SAFETY|PROHIBITED_CONTENT|BLOCKLIST|RECITATION|SPII|IMAGE_SAFETY)$", re.IGNORECASE
)
"""Finish reasons of a reply that the host's own filter stopped: OpenAI's, also with Gemini's behind it
(`content_filter: SAFETY`), and Gemini's own."""


@dataclass(frozen=True)
class Usage:
    """The token counts that came with a reply. `wrong` shows a count that cannot be true; it was replaced
    by 0."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    wrong: str = ""


def read_completion(data: Any, most: int) -> tuple[ChatReply, Usage]:
    """The first choice of a chat completion, and its usage. Content in parts is joined. A text of more than
    `most` characters is cut, and counts as cut off by the token limit. A reply that the host's filter stopped
    may have no message. Raises `ValueError` if `data` is not a chat completion, or one that broke off
    (OpenRouter says so by the finish reason `error`, or by an `error` in the choice or beside it)."""
    try:
        choice = data["choices"][0]
        finish = _writable(str(choice.get("finish_reason") or "stop"))[:40]
        filtered = _FILTERED.match(finish) is not None
        message = choice.get("message")
        if message is None and filtered:
            message = {}
        refusal = message.get("refusal")
        text = _text(message.get("content")) or _text(refusal)
        finish = "length" if len(text) > most else finish
        usage = usage_of(data)
        broke_off = data.get("error") or choice.get("error") or (finish == "error" and "finish_reason error")
    except (LookupError, TypeError, AttributeError):
        raise ValueError("the reply holds no message") from None
    if broke_off:
        raise ValueError(f"the reply broke off ({broke_off})")
    reply = ChatReply(
        _writable(text[:most]),
        usage.prompt,
        usage.completion,
        finish=finish,
        refusal=bool(refusal) or filtered,
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


def usage_of(data: Any) -> Usage:
    """The token counts in an answer's JSON, whatever else it is."""
    usage = data.get("usage") if isinstance(data, dict) else None
    if not isinstance(usage, dict):
        return Usage()
    details = usage.get("completion_tokens_details")
    reasoning = details.get("reasoning_tokens") if isinstance(details, dict) else None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens"), reasoning]
    wrong = [count for count in counts if count is not None and not _plausible(count)]
    prompt, completion, thought = [int(count or 0) if _plausible(count) else 0 for count in counts]
    return Usage(prompt, completion, thought, wrong=repr(wrong[0])[:40] if wrong else "")


def _plausible(count: Any) -> bool:
    return isinstance(count, int | float) and 0 <= count <= MOST_TOKENS
