"""A role behind an OpenAI-compatible endpoint.

Retries are implemented here, so that the wait honours Retry-After, one deadline covers the whole reply, and a
final failure is one line without the key.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import to_json

from safer_steer.config import Role
from safer_steer.endpoints.answers import (
    Complaint,
    complaint,
    page,
    read_completion,
    retry_after_of,
    usage_of,
)
from safer_steer.endpoints.clients import (
    PATH,
    SCHEMA_FORMS,
    Answer,
    NoAnswer,
    SchemaForm,
    TooLarge,
    checked_url,
    key,
    lend,
    proxy_for,
    response_format,
    take_back,
)
from safer_steer.endpoints.gate import Gate, Pace, waiting_for
from safer_steer.endpoints.transport import AnsweredError, ChatReply, ContextLengthError, Message, NoEyesError
from safer_steer.endpoints.wordings import Meaning
from safer_steer.errors import BoundaryError, EndpointError, RejectedError, UserError, shortened

log = logging.getLogger(__name__)

LONGEST_TOKEN = 100
"""In characters, on average over a reply. A longer text than `max_tokens` of them comes from an endpoint that
does not keep the limit; it is cut there."""

_USER_INFO = re.compile(r"//[^/\s@]+@")
"""User and password of an address."""
SHORTEST_SECRET = 8
"""Characters. A shorter key ("x", "EMPTY") is made up for a local server, and its characters also occur in
replies by chance."""


@dataclass
class _Call:
    """A call's place in line, its sample (`repeat`), the form of its schema (an index of `SCHEMA_FORMS`, or
    their number for none), and how it went so far."""

    place: int
    sample: int
    form: int
    lasting: bool = True
    """Whether later calls are to begin with the form, too: an HTTP 4xx refused each one before it. A 5xx that
    quotes the request may pass."""
    tries: int = 0
    failures: int = 0
    """Tries that failed, other than by a 429."""
    sent_at: float = 0.0
    limited_since: float = math.inf


class _Again(Exception):
    """Repeat the call without something the endpoint does not support."""


class _Failed(Exception):
    """A try failed in a way that may pass. `final` is the error if it does not."""

    def __init__(
        self, problem: str, retry_after: float | None = None, final: type[BoundaryError] = EndpointError
    ) -> None:
        super().__init__(problem)
        self.retry_after = retry_after
        self.final = final


class _Silent(_Failed):
    """No reply came within the role's `timeout_s`."""


class _RateLimited(_Failed):
    """The endpoint answered HTTP 429."""


class EndpointTransport:
    """Sends a role's messages to its endpoint (see `transport.Transport`). Several event loops may use it,
    one after the other."""

    first_wait_s = 0.5
    longest_wait_s = 30.0
    longest_retry_after_s = 600.0
    waits_again = True
    """Whether a request that got no reply within the role's `timeout_s` is sent again."""

    def __init__(
        self,
        role: Role,
        may_send: Callable[[], None] = lambda: None,
        lost: Callable[[ChatReply], object] = lambda reply: None,
    ) -> None:
        """Sends nothing yet. `may_send` is called right before every request, including retries; an exception
        from it ends the call: calls may wait long for their turn, and the money limit may be reached
        meanwhile. `lost` is given the token counts of an answer that came with some, but is no reply. Raises
        `UserError` if the role has no usable base_url, proxy or key."""
        self.role = role
        self.schema_taken: SchemaForm | None = None
        """The form in which the endpoint took the last schema. None if none was sent yet, or it takes no
        form."""
        self._may_send, self._lost = may_send, lost
        self._base_url = checked_url(role.base_url or "", f"base_url of model {role.model}")
        self._key = key(role.api_key_env, f"api_key_env of model {role.model}")
        proxy_for(self._base_url)
        self._gate = Gate(role.concurrency)
        self._pace = Pace(role.requests_per_minute)
        self._form = 0 if role.json_schema else len(SCHEMA_FORMS)
        self._limit_name = "max_tokens"
        self._counts = role.price_in + role.price_out > 0
        self._sampling = {"temperature": role.temperature, "top_p": role.top_p}
        self._notices: set[str] = set()

    @property
    def not_taken(self) -> list[str]:
        """Settings of sampling that the endpoint does not take, as far as it said so; its defaults count."""
        return [name for name in ("temperature", "top_p") if name not in self._sampling]

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        """One reply. `repeat` is no part of the body: samples differ anyway if the temperature is above 0. A
        header has it, for the sandbox's agents.

        After a 429 the call waits and is sent again, before all later calls, until the endpoint has given no
        reply for `role.rate_limit_s`. Other errors that may pass are tried again `role.retries` times. Raises
        an EndpointError if all tries failed or no retry would help, a RejectedError (ContextLengthError,
        NoEyesError) if the error is about these messages, or the reply is too large."""
        call = _Call(self._gate.place(), repeat, self._form)
        while True:
            await self._gate.enter(call.place)
            try:
                return await self._until_limited(call, messages, schema)
            except _RateLimited as error:
                self._slow_down(call, error)
            finally:
                self._gate.leave()

    async def check(self) -> None:
        """Check, before a run starts, that the endpoint responds. Any HTTP status except 401 and a redirect
        passes. One that cannot be reached is told soon; one that accepts the connection is waited for as for
        a reply, since some servers do one thing at a time. Raises `UserError`."""
        seconds = self.role.timeout_s
        try:
            with waiting_for(self._who, seconds):
                async with asyncio.timeout(seconds):
                    status = await lend(self, self._base_url, self._key).status(self._url("models"))
        except TimeoutError:
            raise UserError(
                f"{self._base_url} gave no answer within {seconds:g} s (timeout_s); wait until the server is"
                " free, restart it, or raise timeout_s"
            ) from None
        except NoAnswer as error:
            why = self._clean(str(error))
            raise UserError(
                f"cannot reach {self._base_url} ({why}); start the endpoint or fix base_url"
            ) from None
        if status == 401:
            variable = self.role.api_key_env
            fix = f" in {variable}" if variable else "; name its variable in api_key_env"
            raise UserError(f"{self._base_url} refuses the key{fix}")
        if 300 <= status < 400:
            raise UserError(
                f"{self._base_url} redirects (HTTP {status}), and redirects are not followed; fix base_url"
            )

    async def aclose(self) -> None:
        await take_back(self, self._base_url, self._key)

    async def _until_limited(
        self, call: _Call, messages: list[Message], schema: dict[str, Any] | None
    ) -> ChatReply:
        """Raises `_RateLimited` at the first 429."""
        while True:
            call.tries += 1
            await self._pace.turn(self._may_send)
            self._may_send()
            call.sent_at = time.monotonic()
            try:
                return await self._once(call, messages, schema)
            except _Again:
                call.tries -= 1
            except _RateLimited:
                raise
            except _Failed as failure:
                call.failures += 1
                in_vain = isinstance(failure, _Silent) and not self.waits_again
                if call.failures > self.role.retries or in_vain:
                    raise failure.final(self._line(str(failure), call.tries)) from None
                await asyncio.sleep(self._wait(call.failures, failure.retry_after))

    def _slow_down(self, call: _Call, error: _RateLimited) -> None:
        """Raises `EndpointError` if the endpoint has limited this call for too long."""
        now = time.monotonic()
        call.limited_since = min(call.limited_since, now)
        self._gate.refused(call.sent_at)
        self._gate.close_for(self._wait(self._gate.streak, error.retry_after))
        waited = now - call.limited_since
        # Where others got a reply meanwhile, the call only has to wait for its turn; but not for ever.
        in_vain = min(waited, now - self._gate.last_reply)
        if in_vain >= self.role.rate_limit_s or waited >= 6 * self.role.rate_limit_s:
            raise EndpointError(self._line(f"for {waited:.0f} s {error}", call.tries)) from None
        self._tell("limits the rate (HTTP 429); fewer requests are sent until it takes more")

    async def _once(self, call: _Call, messages: list[Message], schema: dict[str, Any] | None) -> ChatReply:
        """Raises `_Again` after it has learnt what this endpoint does not accept."""
        call.form = max(call.form, self._form)  # what other calls have learnt meanwhile
        body: dict[str, Any] = {
            "model": self.role.model,
            "messages": messages,
            **self._sampling,
            self._limit_name: self.role.max_tokens,
        }
        if schema is not None and call.form < len(SCHEMA_FORMS):
            body["response_format"] = response_format(SCHEMA_FORMS[call.form], schema)
        client = lend(self, self._base_url, self._key)
        try:
            async with asyncio.timeout(self.role.timeout_s):
                answer = await client.post(
                    self._url(PATH), to_json(body), self.role.max_reply_mb, call.sample
                )
        except TimeoutError:
            raise _Silent(f"no reply within {self.role.timeout_s:g} s") from None
        except TooLarge as error:
            raise _Failed(str(error), final=RejectedError) from None
        except NoAnswer as error:
            raise _Failed(str(error)) from None
        problem = complaint(answer)
        if problem is None or problem.status < 429:
            self._gate.replied()
        if problem is None:
            reply = self._reply(answer)
            if schema is not None:
                self._took_schema(call)
            return reply
        self._lose(answer)
        self._learn(call, problem, body)
        match problem.meaning:
            case Meaning.FILTERED:
                return ChatReply("", finish="content_filter", refusal=True)
            case Meaning.CONTEXT:
                raise ContextLengthError(self._line(problem.line, call.tries))
            case Meaning.PICTURES:
                raise NoEyesError(self._line(problem.line, call.tries))
        retry_after = retry_after_of(answer)
        if problem.rate_limited:
            raise _RateLimited(problem.line, retry_after)
        if problem.passing:
            raise _Failed(problem.line, retry_after, AnsweredError)
        final = RejectedError if problem.about_messages else AnsweredError
        raise final(self._line(problem.line, call.tries))

    def _learn(self, call: _Call, problem: Complaint, body: dict[str, Any]) -> None:
        """Note what this endpoint does not take of a request. Raises `_Again` if there is another way."""
        if problem.meaning is Meaning.LIMIT_NAME and "max_tokens" in body:
            self._limit_name = "max_completion_tokens"
            raise _Again
        if name := problem.unsupported([name for name in ("temperature", "top_p") if name in body]):
            self._sampling.pop(name, None)
            self._tell(f"takes no {name} for {self.role.model}; going on with its default")
            raise _Again
        if problem.meaning is Meaning.SCHEMA and "response_format" in body:
            call.form += 1
            call.lasting = call.lasting and 400 <= problem.status < 500
            raise _Again

    def _reply(self, answer: Answer) -> ChatReply:
        """Raises `_Failed` if the body is no completion: damaged on its way, or from a server that is
        none."""
        if answer.data is None:
            raise _Failed(f"HTTP {answer.status}: {page(answer.text)}")
        try:
            reply, usage = read_completion(answer.data, LONGEST_TOKEN * self.role.max_tokens)
        except ValueError as error:
            self._lose(answer)
            raise _Failed(str(error)) from None
        if usage.wrong:
            self._tell(f"says that a reply took {usage.wrong} tokens; such a count is taken as 0")
        elif self._counts and not usage.prompt + usage.completion:
            self._tell(
                f"does not say how many tokens a reply took; what {self.role.model} costs is not counted,"
                " nor limited"
            )
        return replace(reply, text=self._without_key(reply.text))

    def _lose(self, answer: Answer) -> None:
        usage = usage_of(answer.data)
        if usage.prompt + usage.completion:
            self._lost(ChatReply("", usage.prompt, usage.completion))

    def _took_schema(self, call: _Call) -> None:
        """The endpoint answered a request whose schema had the call's form."""
        self.schema_taken = SCHEMA_FORMS[call.form] if call.form < len(SCHEMA_FORMS) else None
        if call.form > self._form and call.lasting:
            self._form = call.form
            how = f"only as {self.schema_taken}" if self.schema_taken else "in no form; going on without"
            self._tell(f"takes the JSON schema {how}")

    def _wait(self, tries: int, retry_after: float | None) -> float:
        """Seconds before the next try: exponential backoff with jitter, and never before the endpoint's
        Retry-After."""
        backoff = min(self.longest_wait_s, self.first_wait_s * 2 ** (min(tries, 60) - 1))
        backoff *= random.uniform(0.5, 1)
        if retry_after is None:
            return backoff
        if retry_after > self.longest_retry_after_s:
            self._tell(
                f"asks to wait for {retry_after:g} s (Retry-After); waiting {self.longest_retry_after_s:g} s"
            )
        return max(backoff, min(retry_after, self.longest_retry_after_s) + backoff / 10)

    def _tell(self, what: str) -> None:
        """Say on the terminal, once, what was learnt about this endpoint."""
        if what not in self._notices:
            self._notices.add(what)
            log.warning("%s %s", self._base_url, what)

    def _url(self, path: str) -> str:
        return f"{self._base_url.rstrip('/')}/{path}"

    def _line(self, problem: str, tries: int) -> str:
        tried = "1 try" if tries == 1 else f"{tries} tries"
        return f"{self._who}, {tried}: {self._clean(problem)}"

    @property
    def _who(self) -> str:
        return f"{self.role.model} at {self._base_url}"

    def _clean(self, text: str) -> str:
        return shortened(_USER_INFO.sub("//***@", self._without_key(text)))

    def _without_key(self, text: str) -> str:
        """`text` with the key masked, in case the endpoint quotes it. A made-up key is no secret."""
        secret = self.role.api_key_env and len(self._key) >= SHORTEST_SECRET
        return text.replace(self._key, "***") if secret else text
