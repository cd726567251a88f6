"""A server below HTTP: what it sends need not be HTTP, nor ever end."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import chain, repeat

Answer = bytes | Callable[[], Iterable[bytes]]
"""Bytes to send after a request, or a function that makes them piece by piece."""


@asynccontextmanager
async def raw_server(answer: Answer, once: bytes = b"") -> AsyncIterator[str]:
    """Yields the base_url of a server that answers every request with `answer` and closes the connection. An
    empty `answer` is silence. `once` is sent instead for all requests after the first."""
    busy = []
    calls = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        busy.append(asyncio.current_task())
        calls += 1
        chosen = once if once and calls > 1 else answer
        with suppress(ConnectionError):
            if chosen:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(_length(head))
            else:
                await reader.read()
            for piece in chosen() if callable(chosen) else [chosen]:
                writer.write(piece)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        await asyncio.gather(*busy)


def body(data: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + data


def completion(text: object, usage: str = '{"prompt_tokens": 10, "completion_tokens": 5}') -> bytes:
    """The JSON of a chat completion with this content."""
    message = json.dumps({"role": "assistant", "content": text})
    return f'{{"choices": [{{"message": {message}}}], "usage": {usage}}}'.encode()


def endless() -> Iterable[bytes]:
    """A body without an end."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    return chain([head], repeat(piece))


def endless_headers() -> Iterable[bytes]:
    """A head without an end."""
    return chain(
        [b"HTTP/1.1 200 OK\r\n"], (b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(10**9))
    )


def large(megabytes: int) -> Iterable[bytes]:
    """A valid completion with a long text."""
    before, after = completion("TEXT").split(b"TEXT")
    size = len(before) + megabytes * 2**20 + len(after)
    yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (size, before)
    for _ in range(megabytes):
        yield b"a" * 2**20
    yield after


def bomb(megabytes: int) -> bytes:
    """A valid completion with a long text, packed a thousandfold."""
    before, after = completion("TEXT").split(b"TEXT")
    packed = [gzip.compress(before), *[gzip.compress(b"a" * 2**20)] * megabytes, gzip.compress(after)]
    return body(b"".join(packed), "Content-Encoding: gzip")


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
