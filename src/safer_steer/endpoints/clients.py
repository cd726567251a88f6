"""One HTTP client per endpoint, key and event loop, shared by all transports that use them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, WeakSet

from openai import AsyncOpenAI, DefaultAioHttpClient


@dataclass
class _Shared:
    client: AsyncOpenAI
    borrowers: WeakSet[object] = field(default_factory=WeakSet)


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], _Shared]] = WeakKeyDictionary()


def lend(borrower: object, base_url: str, key: str) -> AsyncOpenAI:
    """The client for this endpoint and key on the running event loop. It is opened on first use and has no
    retries or timeout of its own."""
    shelf = _clients.setdefault(asyncio.get_running_loop(), {})
    shared = shelf.get((base_url, key))
    if shared is None:
        client = AsyncOpenAI(
            base_url=base_url, api_key=key, max_retries=0, timeout=None, http_client=DefaultAioHttpClient()
        )
        shared = shelf[base_url, key] = _Shared(client)
    shared.borrowers.add(borrower)
    return shared.client


async def take_back(borrower: object, base_url: str, key: str) -> None:
    """Return the client. It is closed when the last borrower returns it."""
    shelf = _clients.get(asyncio.get_running_loop(), {})
    shared = shelf.get((base_url, key))
    if shared is None:
        return
    shared.borrowers.discard(borrower)
    if not shared.borrowers:
        del shelf[base_url, key]
        await shared.client.close()
