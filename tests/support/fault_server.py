"""The sandbox's agents behind a chat-completions server that misbehaves by a seeded plan; a program of its
own: `fault_server.py FOLDER SEED`.

`http://.../calm-NAME/v1` never fails, `http://.../rough-NAME/v1` does, as `RATES` and `BURST` say. What is
done with a request follows from the seed, the request's content and how often it has come; only the bursts go
by the order of arrival. Every answer, also a malformed one, is a line of `FOLDER/<name>.jsonl`: {"serial",
"request"}, its number and the hash of what was asked. The reply carries the number as `prompt_tokens`, so the
cache's rows say which answer they hold. `<name>.faults` lists the others.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

from safer_steer.files.store import content_id
from safer_steer.sandbox.agents import SandboxTransport

RATES = {"error 500": 0.05, "broken body": 0.025, "broken answer": 0.025, "reset": 0.02, "hang": 0.01}
BURST = (60, 6)
"""Of so many requests, so many in a row are told 429, in every second burst with a Retry-After."""
DECLINED = "4"
"""A quarter of the obfuscated scripts, by the hash of what is asked, is never written, so that Stage I has
something to drop."""
_COMPLAINT = re.compile(
    r"\n\nYour last reply was no valid answer \(.*\)\. Reply with the JSON object alone\.\Z", re.DOTALL
)


class FaultServer:
    def __init__(self, folder: Path, seed: str) -> None:
        self.folder, self.seed = folder, seed
        self.agents = SandboxTransport()
        self.came: Counter[tuple[str, str]] = Counter()
        self.requests: Counter[str] = Counter()
        self.serial = 0

    def application(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/{name}/v1/chat/completions", self.complete)
        app.router.add_get("/{name}/v1/models", self.models)
        return app

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        name, asked = request.match_info["name"], content_id(body)
        fault = self.fault(name, asked) if name.startswith("rough") else None
        if fault:
            with (self.folder / f"{name}.faults").open("a") as log:
                log.write(f"{fault}\n")
        if fault == "error 500":
            return web.json_response({"error": {"message": "overloaded"}}, status=500)
        if fault in ("busy", "busy, come back"):
            return web.json_response(
                {"error": {"message": "slow down"}},
                status=429,
                headers={"Retry-After": "0.1"} if fault != "busy" else None,
            )
        if fault == "broken body":
            return web.Response(text='{"id": "x", "choices": [{"ind', content_type="application/json")
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault == "hang":
            await asyncio.sleep(60)
            return web.Response()
        messages = [_without_complaint(message) for message in body["messages"]]
        reply = await self.agents.complete(messages)
        text = (
            reply.text[: len(reply.text) // 2]
            if fault == "broken answer" and reply.text.startswith("{")
            else reply.text
        )
        if messages[0]["content"].startswith("Job: obfuscated\n") and content_id(messages) < DECLINED:
            text = "I'm sorry, but I can't help with that."
        return await self.answer(request, asked, text)

    def fault(self, name: str, asked: str) -> str | None:
        """The plan; None where the request is answered as it should be."""
        every, times = BURST
        self.requests[name] += 1
        burst, place = divmod(self.requests[name], every)
        if place >= every - times:
            return ("busy", "busy, come back")[burst % 2]
        self.came[name, asked] += 1
        draw = random.Random(f"{self.seed} {asked} {self.came[name, asked]}").random()
        for fault, rate in RATES.items():
            draw -= rate
            if draw < 0:
                return fault
        return None

    async def answer(self, request: web.Request, asked: str, text: str) -> web.StreamResponse:
        """Send a completion, and note it once it is sent: where the caller has gone meanwhile, this raises
        and nothing was answered."""
        self.serial += 1
        serial = self.serial
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": serial, "completion_tokens": 1, "total_tokens": serial + 1}
        response = web.json_response(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "served",
                "choices": [choice],
                "usage": usage,
            }
        )
        await response.prepare(request)
        await response.write_eof()
        with (self.folder / f"{request.match_info['name']}.jsonl").open("a") as log:
            log.write(json.dumps({"serial": serial, "request": asked}) + "\n")
        return response


def _without_complaint(message: dict[str, Any]) -> dict[str, Any]:
    """A re-ask names what was wrong with the last reply. The agents draw from all they read, so they would
    answer a re-ask otherwise than the question, and a run with malformed answers could not end like one
    without: what is tested here is the run, not the agents."""
    if not isinstance(message["content"], list):
        return message
    return message | {
        "content": [
            part | {"text": _COMPLAINT.sub("", part["text"])} if part["type"] == "text" else part
            for part in message["content"]
        ]
    }


async def serve(folder: Path, seed: str) -> None:
    """Print the address, then serve until killed."""
    runner = web.AppRunner(FaultServer(folder, seed).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
