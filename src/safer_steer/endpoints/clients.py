"""One HTTP client for each endpoint, key and event loop, shared by every transport that goes there."""

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
    """The client for this endpoint and key on the running event loop; opened on first use, without retries or
    timeout of its own."""
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
    """The borrower is done; the last one closes the client."""
    shelf = _clients.get(asyncio.get_running_loop(), {})
    shared = shelf.get((base_url, key))
    if shared is None:
        return
    shared.borrowers.discard(borrower)
    if not shared.borrowers:
        del shelf[base_url, key]
        await shared.client.close()
