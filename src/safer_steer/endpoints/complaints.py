"""What an endpoint's error says: its message, and what has to change before another try can help."""

from __future__ import annotations

import html
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from safer_steer.endpoints.clients import Answer
from safer_steer.errors import shortened

_NO_SCHEMA = re.compile(
    r"response_format|json_schema|json_object|structured.output|guided|grammar", re.IGNORECASE
)
_CONTEXT = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum (?:context|model) length"
    r"|context (?:length|size|window)|max_model_len|prompt is too long",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content_?filter|content_policy|content management policy|usage polic|moderation|flagged"
    r"|data_?inspection",
    re.IGNORECASE,
)
"""Error codes and wordings of hosted endpoints that decline a request before a model sees it."""
_UNSUPPORTED = re.compile(r"unsupported|not support(?:ed)?|unknown|unrecognized|not permitted", re.IGNORECASE)
_ACCOUNT = re.compile(
    r"\baccount\b|organization|billing|quota|credit|balance|payment|subscription|suspended|deactivated",
    re.IGNORECASE,
)
"""Some hosts answer 400 if the account has no money left or is locked. Then the request is not at fault."""
_TITLE = re.compile(r"<(title|h1)\b[^>]*>(.*?)</\1", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Complaint:
    """An error answer: its HTTP status and OpenAI's fields, as far as the endpoint fills them."""

    status: int
    message: str
    code: str = ""
    param: str = ""

    @property
    def line(self) -> str:
        """Status and message."""
        return f"HTTP {self.status}: {self.message}" if self.message else f"HTTP {self.status}"

    @property
    def passing(self) -> bool:
        """Whether another try may help."""
        if self.status == 429:
            return self.rate_limited
        return 200 <= self.status < 300 or self.status in (408, 409, 425) or self.status >= 500

    @property
    def rate_limited(self) -> bool:
        """A 429 that ends when fewer requests are sent. OpenAI also sends one if the money is used up, or if
        a single request exceeds the limit."""
        return self.status == 429 and self.code != "insufficient_quota" and not self._too_large

    @property
    def about_context(self) -> bool:
        """The messages are too long."""
        return _CONTEXT.search(f"{self.code} {self.message}") is not None

    @property
    def about_account(self) -> bool:
        """Something is wrong with the account, not with the request."""
        return _ACCOUNT.search(f"{self.param} {self.message}") is not None

    @property
    def about_messages(self) -> bool:
        """The endpoint does not accept these messages, but may accept others."""
        return self._too_large or (self.status in (400, 413, 422) and not self.about_account)

    @property
    def by_filter(self) -> bool:
        """The host's own filter declined."""
        said = f"{self.code} {self.param} {self.message}"
        return self._of_request and _FILTERED.search(said) is not None and not self.about_account

    @property
    def wants_newer_limit(self) -> bool:
        """The token limit must be called `max_completion_tokens`."""
        return self._of_request and "max_completion_tokens" in self.message and not self.about_context

    def unsupported(self, names: list[str]) -> str:
        """The first of these parameters that the endpoint does not support; "" if it names none."""
        said = f"{self.param} {self.message}"
        named = next((name for name in names if name in said), "")
        return named if self._of_request and _UNSUPPORTED.search(said) else ""

    @property
    def about_schema(self) -> bool:
        """The endpoint does not take the schema in this form. Servers say so with many statuses;
        llama-cpp-python with 500."""
        said = f"{self.param} {self.message}"
        return self.status not in (401, 429) and _NO_SCHEMA.search(said) is not None

    @property
    def _too_large(self) -> bool:
        return self.status == 429 and "request too large" in self.message.lower()

    @property
    def _of_request(self) -> bool:
        return self.status in (400, 403, 422)


def complaint(answer: Answer) -> Complaint | None:
    """The error in an answer, or None if it may be a completion.

    An error object with status 200 is an error, too. If its code is an HTTP status, that one counts.
    """
    fine = 200 <= answer.status < 300
    data = answer.data if isinstance(answer.data, dict) else {}
    error = data.get("error")
    if fine and data and (not error or data.get("choices")):
        return None
    if 300 <= answer.status < 400:
        place = answer.headers.get("location", "an address it does not name")
        return Complaint(answer.status, f"redirects to {place}; redirects are not followed, fix base_url")
    fields: dict[str, Any] = error if isinstance(error, dict) else data
    said = fields.get("message") or fields.get("detail") or error or answer.data
    message = str(said) if said else _page(answer.text)
    code, status = str(fields.get("code") or ""), answer.status
    if fine and code.isdecimal() and 400 <= int(code[:4]) < 600:
        status = int(code)
    return Complaint(status, message[:10_000], code, str(fields.get("param") or ""))


def retry_after_of(answer: Answer) -> float | None:
    """Seconds in the Retry-After header, from a number or an HTTP date; None if there is none, or it is
    neither."""
    header = answer.headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(header))
    with suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return None


def _page(text: str) -> str:
    """What a body that is not JSON says: an HTML page's title, or else the text."""
    if "<html" not in text[:1000].lower() and "<!doctype" not in text[:1000].lower():
        return shortened(text, 1000) or "an empty reply"
    found = _TITLE.search(text)
    title = html.unescape(re.sub(r"<[^>]*>", " ", found[2])) if found else ""
    return f"a web page{f', {shortened(title)!r}' if title.strip() else ''}, and no JSON"
