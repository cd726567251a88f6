"""Asks an endpoint whose replies are too large, eight calls at once, and prints the errors and the peak of
its memory in MB: `hostile_run.py KIND`. The server is a process of its own."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import resource
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from raw_server import body, bomb, endless, large, raw_server
from safer_steer.config import Role
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.errors import BoundaryError

HELLO = [{"role": "user", "content": "hello"}]


def serve(kind: str, port: Connection) -> None:
    answers = {
        "endless": lambda: endless,
        "large": lambda: lambda: large(200),
        "bomb": lambda: bomb(200),
        "lists": lambda: body(b"[" + b"[]," * 5_000_000 + b"0]"),
    }

    async def run() -> None:
        async with raw_server(answers[kind]()) as url:
            port.send(url)
            await asyncio.Event().wait()

    asyncio.run(run())


async def errors_at(url: str) -> list[str]:
    transport = EndpointTransport(Role(model="m", base_url=url, retries=0))

    async def ask() -> str:
        try:
            await transport.complete(HELLO)
        except BoundaryError as error:
            return type(error).__name__
        return ""

    told = await asyncio.gather(*(ask() for _ in range(8)))
    await transport.aclose()
    return told


def peak_mb() -> float:
    """Linux counts in ru_maxrss what the parent took before the fork, so its own count is read there."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    process = spawn.Process(target=serve, args=(sys.argv[1], there), daemon=True)
    process.start()
    errors = asyncio.run(errors_at(here.recv()))
    process.terminate()
    print(json.dumps({"errors": errors, "peak_mb": round(peak_mb())}))
