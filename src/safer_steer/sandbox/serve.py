"""The sandbox's agents behind an OpenAI-compatible HTTP server, for trying out endpoints without downloads or
cost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from safer_steer.config import SANDBOX_AGENTS
from safer_steer.endpoints.transport import SAMPLE
from safer_steer.errors import EndpointError
from safer_steer.files.store import content_id
from safer_steer.sandbox.agents import SandboxTransport

MODEL = "sandbox"
MODELS = (MODEL, *SANDBOX_AGENTS)
LARGEST = 64 * 2**20
"""Largest size of a request in bytes, pictures included."""


def application() -> web.Application:
    """`POST /v1/chat/completions` and `GET /v1/models`.

    A request that names a job of the method in its system message goes to that job's agent. The fixed target
    policy answers all others. The model's name says what tutor and attacker attack with; any other name is
    the sandbox's too, unless it begins as theirs do. The header `SAMPLE` tells samples of the same request
    apart.
    """
    app = web.Application(client_max_size=LARGEST)
    app.router.add_post("/v1/chat/completions", _complete)
    app.router.add_get("/v1/models", _models)
    return app


def serve(port: int, ready: Callable[[str], None]) -> None:
    """Serve on 127.0.0.1 until interrupted. `ready` is called with the base URL once requests are accepted.
    Port 0 selects a free port.

    Raises:
        OSError: the port is in use.
    """

    async def forever() -> None:
        runner = web.AppRunner(application(), access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            ready(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    asyncio.run(forever())


async def _models(request: web.Request) -> web.Response:
    return web.json_response(
        {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": 0, "owned_by": "safer-steer"} for name in MODELS
            ],
        }
    )


async def _complete(request: web.Request) -> web.Response:
    try:
        body: dict[str, Any] = json.loads(await request.read())
        messages = [
            message for message in body["messages"] if message["role"] in ("system", "user", "assistant")
        ]
        model = str(body.get("model", MODEL))
        if model.startswith(MODEL) and model not in MODELS:
            return _error(f"no model {model!r} here; there are {', '.join(MODELS)}", 404)
        agents = SandboxTransport(model)
        reply = await agents.complete(messages, repeat=int(request.headers.get(SAMPLE, "0")))
    except EndpointError as error:
        return _error(str(error))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return _error(f"no chat-completions request: {type(error).__name__}: {error}")
    used = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
    choice = {
        "index": 0,
        "finish_reason": reply.finish,
        "message": {"role": "assistant", "content": reply.text},
    }
    return web.json_response(
        {
            "id": f"chatcmpl-{content_id(body)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "usage": {**used, "total_tokens": sum(used.values())},
        }
    )


def _error(message: str, status: int = 400) -> web.Response:
    return web.json_response(
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}},
        status=status,
    )
