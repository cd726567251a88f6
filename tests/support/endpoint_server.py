"""A real HTTP server on loopback that speaks the chat-completions protocol and misbehaves on request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Step = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
"""What the server does with one request, given its JSON body."""


def says(text: str | None, *, finish: str = "stop", refusal: str | None = None, after_s: float = 0) -> Step:
    """A well-formed completion with this text; every reply counts 10 prompt and 5 completion tokens."""

    async def step(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(after_s)
        message = {"role": "assistant", "content": text, "refusal": refusal}
        return web.json_response(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "finish_reason": finish, "message": message}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
            }
        )

    return step


def fails(
    status: int, message: str = "no", *, code: str | None = None, headers: dict[str, str] | None = None
) -> Step:
    """An error in OpenAI's form."""

    async def step(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(
            {"error": {"message": message, "type": "error", "code": code}}, status=status, headers=headers
        )

    return step


NO_IMAGES = "At most 0 image(s) may be provided in one request."


def sees_nothing(then: Step, message: str = NO_IMAGES, status: int = 400) -> Step:
    """A server of a model without eyes: a request with a picture is rejected, any other goes to `then`."""

    async def step(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        refuse = "image_url" in json.dumps(body["messages"])
        return await (fails(status, message) if refuse else then)(request, body)

    return step


def sends(raw: str, content_type: str = "application/json") -> Step:
    """A body as it stands, whatever it is, with status 200."""

    async def step(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(text=raw, content_type=content_type)

    return step


async def resets(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """The connection is cut without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class EndpointServer:
    """Takes its `steps` one request after the other, then repeats `always`; keeps bodies and headers, counts
    calls in flight.

    >>> async with EndpointServer(fails(500), says("hello")) as server: ...  # server.url is the base_url
    """

    def __init__(self, *steps: Step, always: Step | None = None) -> None:
        self.steps = list(steps)
        self.always = always or says("{}")
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0

    @property
    def calls(self) -> int:
        return len(self.bodies)

    async def __aenter__(self) -> EndpointServer:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.times.append(asyncio.get_running_loop().time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await (self.steps.pop(0) if self.steps else self.always)(request, body)
        finally:
            self.in_flight -= 1
