"""The HTTP side: POST a body, read the answer up to a bound.

One client per endpoint, key and event loop, shared by all transports that use them. Replies come from
somebody else's server and may be anything: endless, packed a thousandfold, nested without end, no HTTP at
all. So they are read and unpacked in chunks, and what cannot be read is a `NoAnswer` with one line.
Redirects are not followed: they would send the dialogue and its picture to another host.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary, WeakSet

import aiohttp

from safer_steer.endpoints.parse import is_shallow
from safer_steer.endpoints.transport import SAMPLE
from safer_steer.errors import UserError

SchemaForm = Literal["json_schema", "json_object with schema", "json_object"]
SCHEMA_FORMS: tuple[SchemaForm, ...] = ("json_schema", "json_object with schema", "json_object")
"""In the order in which they are tried: OpenAI's, llama.cpp's, and the request for any JSON object.
llama.cpp's comes before the last since its servers take the last, too, and then forget the schema."""


def response_format(form: SchemaForm, schema: dict[str, Any]) -> dict[str, Any]:
    """The request's `response_format`."""
    if form == "json_object":
        return {"type": "json_object"}
    if form == "json_object with schema":
        return {"type": "json_object", "schema": schema}
    content = {"name": schema.get("title", "answer"), "schema": schema}
    return {"type": "json_schema", "json_schema": content}


PATH = "chat/completions"
"""Of a completion, behind an endpoint's address."""


def _is_http(url: str) -> bool:
    """Whether it is the whole address of a server that speaks HTTP."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def checked_url(url: str, of: str, such: str = "http://localhost:8000/v1") -> str:
    """An endpoint's address. `of` names its key or model in errors, `such` is an example of a right one.
    Raises `UserError` if it is no address, holds a password or a query, which may be a key, or goes on to a
    path of the interface."""
    url = url.strip()
    usable = _is_http(url)
    if "?" in url or "@" in (urlsplit(url).netloc if usable else url):
        raise UserError(
            f"{of} holds a password, or a query after a question mark; leave it out: a key goes into an"
            " environment variable, which api_key_env names"
        )
    if not usable or "#" in url or url.rstrip("/").endswith(f"/{PATH}"):
        raise UserError(f"{of} is {url!r}; give the server's address, for instance {such}")
    return url


def proxy_for(base_url: str) -> str | None:
    """The proxy that the environment names for this address (HTTP_PROXY, NO_PROXY and the like). Raises
    `UserError` if it is none that speaks HTTP; its address, which may hold a password, is not shown."""
    parts = urlsplit(base_url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if proxy is None or _is_http(proxy):
        return proxy
    variable = f"{parts.scheme}_proxy"
    raise UserError(
        f"environment variable {variable if variable in os.environ else variable.upper()} is no address of an"
        " HTTP proxy; give http://HOST:PORT (SOCKS is not spoken), or name the endpoint's host in NO_PROXY"
    )


def key(variable: str | None, of: str) -> str:
    """The key in this environment variable; "none" if it is None. `of` names the setting in errors. Raises
    `UserError` if the variable is empty, or what it holds cannot be a key."""
    if variable is None:
        return "none"
    secret = os.environ.get(variable, "").strip()
    named = f"environment variable {variable} ({of})"
    if not secret:
        raise UserError(f"{named} is not set; export the key in it")
    if not secret.isascii() or not secret.isprintable():
        raise UserError(f"{named} holds characters that no key has; copy the key again")
    return secret


CONNECT_S = 10.0
"""Seconds to make a connection to a host that does not answer at all, where somebody waits for it."""
MEGABYTE = 2**20
LARGE = MEGABYTE
"""Bytes. Larger answers of an endpoint are read and parsed one at a time, so that their sum is bounded,
too."""
MOST_PARTS = 1_000_000
"""Objects and lists in one answer. Each takes up to 100 bytes of memory, for two bytes of the body."""
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


class NoAnswer(Exception):
    """No HTTP answer came, or one that cannot be read. The message is one line."""


class TooLarge(NoAnswer):
    """The answer is larger than what is read of one."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. `data` is the body's JSON value, or None if the body is not JSON; `text` is the
    beginning of the body."""

    status: int
    headers: Mapping[str, str]
    data: Any
    text: str


class Client:
    """A connection pool for one endpoint and key. Must be made on the event loop that uses it. Raises as
    `proxy_for` does."""

    def __init__(self, base_url: str, key: str) -> None:
        self.borrowers: WeakSet[object] = WeakSet()
        self._proxy = proxy_for(base_url)
        self._one_large = asyncio.Lock()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1000),
            headers={
                "Authorization": f"Bearer {key}",
                "Accept": "application/json",
                "User-Agent": "safer-steer",
            },
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    @asynccontextmanager
    async def _asking(self, method: str, url: str, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(
                method, url, proxy=self._proxy, allow_redirects=False, **more
            ) as response:
                yield response
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswer(_why(error)) from None

    async def post(self, url: str, content: bytes, most_mb: float, sample: int = 0) -> Answer:
        """POST a JSON body, and `sample` in the header `SAMPLE`. Reads at most `most_mb` megabytes of the
        unpacked answer.

        Raises `NoAnswer` if nobody answers, what comes is no HTTP, or the connection is cut; `TooLarge` if it
        is larger than `most_mb`, or holds more than `MOST_PARTS` objects.
        """
        headers = {"Content-Type": "application/json", SAMPLE: str(sample)}
        large = False
        body = bytearray()
        try:
            async with self._asking("POST", url, data=content, headers=headers) as response:
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > most_mb * MEGABYTE:
                        raise TooLarge(f"a reply of more than {most_mb:g} MB (max_reply_mb)")
                    if len(body) > LARGE and not large:
                        await self._one_large.acquire()
                        large = True
                return _answer(response, body)
        finally:
            if large:
                self._one_large.release()

    async def status(self, url: str) -> int:
        """The HTTP status of a GET. The body is not read. Raises `NoAnswer` as `post` does, and where no
        connection comes about within `CONNECT_S`."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        async with self._asking("GET", url, timeout=timeout) as response:
            return response.status

    async def get(self, url: str) -> Answer:
        """The answer to a GET. Raises `NoAnswer` as `post` does."""
        async with self._asking("GET", url) as response:
            return _answer(response, bytearray(await response.content.read(MEGABYTE)))

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _answer(response: aiohttp.ClientResponse, body: bytearray) -> Answer:
    return Answer(response.status, response.headers, _json(body), body[:10_000].decode(errors="replace"))


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], Client]] = WeakKeyDictionary()


def lend(borrower: object, base_url: str, key: str) -> Client:
    """The client for this endpoint and key on the running event loop, opened on first use."""
    shelf = _clients.setdefault(asyncio.get_running_loop(), {})
    client = shelf.get((base_url, key))
    if client is None:
        client = shelf[base_url, key] = Client(base_url, key)
    client.borrowers.add(borrower)
    return client


async def take_back(borrower: object, base_url: str, key: str) -> None:
    """Return the client. It is closed when the last borrower returns it."""
    shelf = _clients.get(asyncio.get_running_loop(), {})
    client = shelf.get((base_url, key))
    if client is None:
        return
    client.borrowers.discard(borrower)
    if not client.borrowers:
        del shelf[base_url, key]
        await client.close()


async def close_all() -> None:
    """Close the clients of the running event loop, whoever has borrowed them."""
    for client in _clients.pop(asyncio.get_running_loop(), {}).values():
        await client.close()


def _json(body: bytearray) -> Any:
    """None if there is no JSON value or it is nested too deep. Raises `TooLarge` if the value would take much
    more memory than the body."""
    if _parts(body) > MOST_PARTS and _parts(_STRING.sub(b'""', body)) > MOST_PARTS:
        raise TooLarge(f"a reply of more than {MOST_PARTS:,} objects and lists")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if is_shallow(value) else None


def _parts(body: bytes | bytearray) -> int:
    return body.count(b"{") + body.count(b"[")


def _why(error: Exception) -> str:
    """One line without the address, which the caller knows."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {CONNECT_S:g} s"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy of the environment answers HTTP {error.status}: {error.message}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the reply is no HTTP: {error.message}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed without a reply"
    return f"the connection failed: {error or type(error).__name__}"
