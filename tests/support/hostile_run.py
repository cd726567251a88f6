"""Asks endpoints whose replies are too large, one after the other and three calls at once. Prints for each
the errors and the peak of its memory so far in MB: `hostile_run.py URL...`"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path

from safer_steer.config import Role
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.errors import BoundaryError

HELLO = [{"role": "user", "content": "hello"}]


async def errors_at(url: str) -> list[str]:
    transport = EndpointTransport(Role(model="m", base_url=url, retries=0))

    async def ask() -> str:
        try:
            await transport.complete(HELLO)
        except BoundaryError as error:
            return type(error).__name__
        return ""

    told = await asyncio.gather(*(ask() for _ in range(3)))
    await transport.aclose()
    return told


def peak_mb() -> float:
    """Linux counts in ru_maxrss what the parent took before the fork, so its own count is read there."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


async def main() -> None:
    for url in sys.argv[1:]:
        print(json.dumps({"errors": await errors_at(url), "peak_mb": round(peak_mb())}))


if __name__ == "__main__":
    asyncio.run(main())
