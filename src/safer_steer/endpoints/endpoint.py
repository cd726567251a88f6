"""A role behind an OpenAI-compatible endpoint.

HTTP uses openai's client on its aiohttp transport. Retries are implemented here, so that the wait honours
Retry-After, one deadline covers the whole reply, and a final failure is one line without the key. Requests
are serialised and replies parsed here, too: the client's own pass over the messages and its typed completion
took half of a call's CPU time (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import openai
from pydantic_core import to_json

from safer_steer.config import Role
from safer_steer.endpoints.clients import lend, take_back
from safer_steer.endpoints.pace import Pace
from safer_steer.endpoints.transport import ChatReply, ContextLengthError, Message
from safer_steer.errors import EndpointError, RejectedError, UserError

log = logging.getLogger(__name__)

_RETRIED = {408, 409, 425, 429}
"""4xx statuses that are retried; every 5xx is retried, too."""

_NO_SCHEMA = re.compile(r"response_format|json_schema|structured.output|guided|grammar", re.IGNORECASE)
_CONTEXT = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum (?:context|model) length|context (?:length|size|window)|max_model_len|prompt is too long",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content_?filter|content_policy|content management policy|usage polic|moderation|flagged|data_?inspection",
    re.IGNORECASE,
)
"""Error codes and wordings of hosted endpoints that decline a request before a model sees it."""
_UNSUPPORTED = re.compile(
    r"(?:unsupported|not support(?:ed)?|unknown|unrecognized|not permitted)", re.IGNORECASE
)
_REJECTED = {400, 413, 422}
_ACCOUNT = re.compile(
    r"\baccount\b|organization|billing|quota|credit|balance|payment|subscription|suspended|deactivated",
    re.IGNORECASE,
)
"""Some hosts answer 400 if the account has no money left or is locked. Then the request is not at fault."""


class EndpointTransport:
    """Sends a role's messages to its endpoint (see `transport.Transport`). Several event loops may use it,
    one after the other."""

    first_wait_s = 0.5
    longest_wait_s = 30.0
    longest_retry_after_s = 600.0

    def __init__(self, role: Role, may_send: Callable[[], None] = lambda: None) -> None:
        """Sends nothing yet.

        Args:
            may_send: called right before every request, including retries; an exception from it ends the
                call. Calls may wait long for their turn, and the money limit may be reached meanwhile.

        Raises:
            UserError: the role has no usable base_url, or the variable named by `api_key_env` holds no usable
                key.
        """
        self.role = role
        self._may_send = may_send
        self._base_url = _checked_url(role)
        self._key = _key(role)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate = asyncio.Semaphore(role.concurrency)
        self._pace = Pace(role.requests_per_minute)
        self._send_schema = role.json_schema
        self._limit_name = "max_tokens"
        self._counts = role.price_in + role.price_out > 0
        self._sampling = {"temperature": role.temperature, "top_p": role.top_p}

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        """One reply. `repeat` is not sent: an endpoint's samples differ anyway if the temperature is above 0.

        Raises:
            EndpointError: all tries failed, or the endpoint reported an error that a retry would not fix.
            RejectedError: the reported error is about these messages.
            ContextLengthError: the messages do not fit the model's context.
        """
        async with self._slot():
            tries = 0
            while True:
                tries += 1
                retry_after, busy = None, False
                await self._pace.turn(self._may_send)
                self._may_send()
                try:
                    return await self._once(messages, schema)
                except _Again:
                    tries -= 1
                    continue
                except openai.APIStatusError as error:
                    problem = f"HTTP {error.status_code}: {_said(error)}"
                    if _CONTEXT.search(f"{error.code} {problem}"):
                        raise ContextLengthError(self._line(problem, tries)) from None
                    if error.status_code not in _RETRIED and error.status_code < 500:
                        about_it = error.status_code in _REJECTED and not _ACCOUNT.search(problem)
                        raise (RejectedError if about_it else EndpointError)(
                            self._line(problem, tries)
                        ) from None
                    retry_after = _retry_after(error.response.headers.get("retry-after"))
                    busy = error.status_code == 429 and retry_after is None
                except TimeoutError:
                    problem = f"no reply within {self.role.timeout_s:g} s"
                except (openai.APIError, ValueError) as error:
                    # Connection lost, or the body is not a chat completion.
                    problem = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
                if tries > self.role.retries:
                    raise EndpointError(self._line(problem, tries)) from None
                await asyncio.sleep(self._wait(tries + 3 * busy, retry_after))

    async def check(self) -> None:
        """Check quickly, before a run starts, that the endpoint responds. Any HTTP status except 401 passes.

        Raises:
            UserError: it cannot be reached, or refuses the key.
        """
        seconds = min(10.0, self.role.timeout_s)
        try:
            async with asyncio.timeout(seconds):
                await lend(self, self._base_url, self._key).models.with_raw_response.list()
        except openai.AuthenticationError:
            variable = self.role.api_key_env
            raise UserError(
                f"{self._base_url} refuses the key{f' in {variable}' if variable else '; name its variable in api_key_env'}"
            ) from None
        except openai.APIStatusError:
            return
        except TimeoutError:
            raise UserError(
                f"cannot reach {self._base_url} within {seconds:g} s; start the endpoint or fix base_url"
            ) from None
        except openai.APIError as error:
            raise UserError(
                f"cannot reach {self._base_url} ({self._clean(str(error.__cause__ or error))}); start the endpoint or fix base_url"
            ) from None

    async def aclose(self) -> None:
        """Close the connections, unless another transport uses them."""
        await take_back(self, self._base_url, self._key)

    def _slot(self) -> asyncio.Semaphore:
        """The role's semaphore; a new one for each new event loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._gate = loop, asyncio.Semaphore(self.role.concurrency)
        return self._gate

    async def _once(self, messages: list[Message], schema: dict[str, Any] | None) -> ChatReply:
        """One call. Raises `_Again` after it has learnt what this endpoint does not accept."""
        sent_schema = schema is not None and self._send_schema
        limit_name = self._limit_name
        sampling = dict(self._sampling)
        body: dict[str, Any] = {
            "model": self.role.model,
            "messages": messages,
            **sampling,
            limit_name: self.role.max_tokens,
        }
        if schema is not None and sent_schema:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": schema.get("title", "answer"), "schema": schema},
            }
        url = (
            f"{self._base_url.rstrip('/')}/chat/completions"  # absolute, so that the client need not join it
        )
        try:
            async with asyncio.timeout(self.role.timeout_s):
                data = await lend(self, self._base_url, self._key).post(
                    url, cast_to=bytes, content=to_json(body)
                )
        except (
            openai.BadRequestError,
            openai.PermissionDeniedError,
            openai.UnprocessableEntityError,
        ) as error:
            said = f"{error.param} {_said(error)}"
            if _FILTERED.search(f"{error.code} {said}") and not _ACCOUNT.search(said):
                return ChatReply("", finish="content_filter", refusal=True)
            if limit_name == "max_tokens" and "max_completion_tokens" in said and not _CONTEXT.search(said):
                self._limit_name = "max_completion_tokens"
                raise _Again from None
            if (name := next((name for name in sampling if name in said), "")) and _UNSUPPORTED.search(said):
                if self._sampling.pop(name, None) is not None:
                    log.warning(
                        "%s takes no %s for %s; going on with its default",
                        self._base_url,
                        name,
                        self.role.model,
                    )
                raise _Again from None
            if sent_schema and _NO_SCHEMA.search(said):
                if self._send_schema:
                    log.warning("%s takes no JSON schema; going on without", self._base_url)
                self._send_schema = False
                raise _Again from None
            raise
        return self._reply(data)

    def _reply(self, data: bytes) -> ChatReply:
        """The parsed reply. Raises `ValueError` if the endpoint's body is not a chat completion."""
        completion = json.loads(data)
        try:
            choice, usage = completion["choices"][0], completion.get("usage") or {}
            refusal = choice["message"].get("refusal")
            text = str(choice["message"].get("content") or refusal or "")
            finish = str(choice.get("finish_reason") or "stop")
            spent = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (LookupError, TypeError, AttributeError):
            raise ValueError("the endpoint's answer holds no message") from None
        if self._counts and not any(spent):
            self._counts = False
            log.warning(
                "%s does not say how many tokens a reply took; what %s costs is not counted, nor limited",
                self._base_url,
                self.role.model,
            )
        text = (
            self._without_key(text).encode("utf-8", "replace").decode()
        )  # half a surrogate pair can be neither hashed nor stored
        return ChatReply(text, *spent, finish=finish, refusal=bool(refusal) or finish == "content_filter")

    def _wait(self, tries: int, retry_after: float | None) -> float:
        """Seconds before the next try: exponential backoff with jitter, never before the endpoint's
        Retry-After.

        The wait is longer for a 429 without Retry-After: quotas are per minute, and five tries must outlast
        the minute.
        """
        backoff = min(self.longest_wait_s, self.first_wait_s * 2 ** (tries - 1)) * random.uniform(0.5, 1)
        if retry_after is None:
            return backoff
        return min(retry_after, self.longest_retry_after_s) + backoff / 10

    def _line(self, problem: str, tries: int) -> str:
        return f"{self.role.model} at {self._base_url}, {tries} {'try' if tries == 1 else 'tries'}: {self._clean(problem)}"

    def _clean(self, text: str) -> str:
        """One line of at most 200 characters, without the key."""
        return " ".join(self._without_key(text).split())[:200]

    def _without_key(self, text: str) -> str:
        """`text` with the key masked, in case the endpoint quotes it."""
        return text.replace(self._key, "***") if self.role.api_key_env else text


def _said(error: openai.APIStatusError) -> str:
    """The endpoint's own message: OpenAI's error message, or else the body it sent."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    return str(message or error.body or error.message)


class _Again(Exception):
    """Repeat the call without something the endpoint does not support."""


def _checked_url(role: Role) -> str:
    url = (role.base_url or "").strip()
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"base_url of model {role.model} is {url!r}; give the endpoint's address, for instance http://localhost:8000/v1"
        )
    if "@" in parts.netloc:
        raise UserError(
            f"base_url of model {role.model} holds a password; put the key in an environment variable and name it in api_key_env"
        )
    return url


def _key(role: Role) -> str:
    if role.api_key_env is None:
        return "none"
    key = os.environ.get(role.api_key_env, "").strip()
    if not key:
        raise UserError(
            f"environment variable {role.api_key_env} (api_key_env of model {role.model}) is not set; export the key in it"
        )
    if not key.isascii() or not key.isprintable():
        raise UserError(
            f"environment variable {role.api_key_env} (api_key_env of model {role.model}) holds characters no key has"
        )
    return key


def _retry_after(header: str | None) -> float | None:
    """Seconds, from a number or an HTTP date; None if the header is missing or is neither."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
