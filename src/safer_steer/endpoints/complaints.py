"""An endpoint's errors: what they say, what that means, and whether another try may help.

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
from safer_steer.endpoints.wordings import REJECTED, Meaning, Wording, wording_of
from safer_steer.errors import shortened

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
        """Status and message."""
        return f"HTTP {self.status}: {self.message}" if self.message else f"HTTP {self.status}"

    @property
    def wording(self) -> Wording | None:
        """The row of the table that it fits."""
        return wording_of(self.status, f"{self.param} {self.message}", (self.code, self.kind))

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
        said = f"{self.param} {self.message}"
        named = [name for name in names if name in said]
        return named[-1] if named else ""


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
    said = fields.get("message") or fields.get("detail") or error or answer.data
    message = str(said) if said else page(answer.text)
    code, kind, param = (str(fields.get(name) or "") for name in ("code", "type", "param"))
    status = answer.status
    if fine and code.isdecimal() and 400 <= int(code[:4]) < 600:
        status = int(code)
    return Complaint(status, message[:10_000], code, kind, param)


def retry_after_of(answer: Answer) -> float | None:
    """Seconds in the Retry-After header, from a number or an HTTP date; None if there is none, or it is
    neither."""
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
    found = _TITLE.search(text)
    title = html.unescape(re.sub(r"<[^>]*>", " ", found[2])) if found else ""
    return f"a web page{f', {shortened(title)!r}' if title.strip() else ''}, and no JSON"
