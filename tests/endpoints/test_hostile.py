"""Replies of endpoints that are broken or mean harm: each is at worst one failed reply with one line, in
bounded memory, and the next reply is read."""

import asyncio
import gzip
import json
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from endpoint_server import EndpointServer, says, sends
from places import SUPPORT
from raw_server import Answer, body, bomb, completion, endless, endless_headers, large, raw_server
from safer_steer.config import Role
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.endpoints.transport import ChatReply
from safer_steer.errors import BoundaryError, EndpointError, RejectedError, UserError

HELLO = [{"role": "user", "content": "hello"}]
GOOD = body(completion("good"))
ONE_MB = {"max_reply_mb": 1}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EndpointTransport, "first_wait_s", 0.01)


async def ask(url: str, **settings: Any) -> ChatReply:
    transport = EndpointTransport(Role(**{"model": "m", "base_url": url, "retries": 1} | settings))
    try:
        return await transport.complete(HELLO)
    finally:
        await transport.aclose()


BROKEN: dict[str, tuple[Answer, str]] = {
    "nested without end": (body(b"[" * 100_000), "HTTP 200: "),
    "nested in an object": (body(b'{"a":' * 100_000), "HTTP 200: "),
    "an endless body": (endless, "a reply of more than 1 MB"),
    "a garbage status line": (b"SSH-2.0-OpenSSH_9.6\r\n" + b"\x00\xff" * 50, "the reply is no HTTP"),
    "endless headers": (endless_headers, "the reply is no HTTP"),
    "a status that is none": (b"HTTP/1.1 9999999 OK\r\n\r\n", "the reply is no HTTP"),
    "another protocol": (b"220 mail.example ESMTP ready\r\n", "the reply is no HTTP"),
    "a body cut off": (GOOD[:-5], "the connection failed"),
    "no gzip": (body(b"plain", "Content-Encoding: gzip"), "the connection failed"),
    "nothing": (body(b""), "HTTP 200: an empty reply"),
}


@pytest.mark.parametrize(("answer", "line"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_reply_is_one_line_and_the_next_is_read(answer: Answer, line: str) -> None:
    settings = ONE_MB | {"timeout_s": 5}
    async with raw_server(answer) as url:
        with pytest.raises(BoundaryError, match=rf"m at {url}, 2 tries: {line}") as caught:
            await ask(url, **settings)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    async with raw_server(answer, once=GOOD) as url:
        assert (await ask(url, **settings)).text == "good"


async def test_a_reply_that_stays_too_large_is_blamed_on_the_request_and_not_on_the_endpoint() -> None:
    async with EndpointServer(always=says("a" * 2**21)) as server:
        with pytest.raises(RejectedError, match=r"more than 1 MB \(max_reply_mb\)"):
            await ask(server.url, max_reply_mb=1)
        assert len((await ask(server.url, max_reply_mb=3, max_tokens=2**21)).text) == 2**21


async def test_memory_is_bounded() -> None:
    """By the default of 16 MB a reply; three calls at once, in a process of their own."""
    too_large: list[Answer] = [
        endless,
        lambda: large(200),
        bomb(500),
        body(b"[" + b"[]," * 5_000_000 + b"0]"),
    ]
    async with AsyncExitStack() as servers:
        urls = [await servers.enter_async_context(raw_server(answer)) for answer in too_large]
        client = await asyncio.create_subprocess_exec(
            sys.executable, str(SUPPORT / "hostile_run.py"), *urls, stdout=asyncio.subprocess.PIPE
        )
        told = (await client.communicate())[0].splitlines()
    for line in map(json.loads, told):
        assert line["errors"] == ["RejectedError"] * 3
        assert line["peak_mb"] < 400
    assert len(told) == len(too_large)


USAGES = {
    "negative": ('{"prompt_tokens": -5, "completion_tokens": 7}', (0, 7), "-5"),
    "infinite": ('{"prompt_tokens": 1e999, "completion_tokens": 7}', (0, 7), "inf"),
    "not a number": ('{"prompt_tokens": NaN, "completion_tokens": 7}', (0, 7), "nan"),
    "huge": ('{"prompt_tokens": 3, "completion_tokens": 1' + "0" * 30 + "}", (3, 0), "1" + "0" * 30),
    "in words": ('{"prompt_tokens": "many", "completion_tokens": [1]}', (0, 0), "'many'"),
}


@pytest.mark.parametrize(("usage", "counts", "shown"), USAGES.values(), ids=USAGES.keys())
async def test_counts_that_cannot_be_true_are_taken_as_0_and_said_once(
    usage: str, counts: tuple[int, int], shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with EndpointServer(always=sends(completion("x", usage).decode())) as server:
        transport = EndpointTransport(Role(model="m", base_url=server.url, price_in=1))
        replies = [await transport.complete(HELLO) for _ in range(2)]
        await transport.aclose()
    assert replies == [ChatReply("x", *counts)] * 2
    assert caplog.messages == [
        f"{server.url} says that a reply took {shown} tokens; such a count is taken as 0"
    ]


@pytest.mark.parametrize("status", [301, 307])
async def test_redirects_are_refused(status: int) -> None:
    """They would send dialogue and picture to another host, whose answer would be scored."""
    async with EndpointServer(always=says("from elsewhere")) as other:

        async def redirect(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
            return web.Response(status=status, headers={"Location": f"{other.url}/chat/completions"})

        async with EndpointServer(always=redirect) as server:
            with pytest.raises(EndpointError, match=f"1 try: HTTP {status}: redirects to {other.url}"):
                await ask(server.url)
            assert (server.calls, other.calls) == (1, 0)


ERRORS = {
    "an object": ('{"error": {"message": "model is loading"}}', "HTTP 200: model is loading"),
    "a string": ('{"error": "model is loading"}', "HTTP 200: model is loading"),
    "with a status": ('{"error": {"message": "no money", "code": 402}}', "HTTP 402: no money"),
    "with a number that is none": (f'{{"error": {{"code": "0500{"0" * 5000}"}}}}', "HTTP 200: "),
}


@pytest.mark.parametrize(("sent", "line"), ERRORS.values(), ids=ERRORS.keys())
async def test_an_error_with_status_200_is_told(sent: str, line: str) -> None:
    async with EndpointServer(always=sends(sent)) as server:
        with pytest.raises(EndpointError, match=line):
            await ask(server.url)


async def test_a_web_page_gives_its_title_and_status() -> None:
    page = (
        "<!DOCTYPE html>\n<html><head><title>502 Bad\n Gateway &amp; more</title></head><body>" + "x" * 5000
    )

    async def step(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=404, text=page, content_type="text/html")

    async with EndpointServer(always=step) as server:
        with pytest.raises(EndpointError) as caught:
            await ask(server.url)
    assert str(caught.value).endswith("1 try: HTTP 404: a web page, '502 Bad Gateway & more', and no JSON")


async def test_content_in_parts_is_joined_and_reasoning_tokens_are_told() -> None:
    parts = [{"type": "text", "text": '{"a": '}, {"type": "thinking", "thinking": "hm"}, {"text": "1}"}, "!"]
    usage = '{"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 6}}'
    async with EndpointServer(sends(completion(parts, usage).decode())) as server:
        reply = await ask(server.url)
    assert (reply.text, reply.reasoning_tokens) == ('{"a": 1}!', 6)


async def test_a_large_reply_does_not_hold_up_the_others_for_long() -> None:
    async with EndpointServer(says("{" * 5_000_000), always=says("good")) as server:
        first = asyncio.create_task(ask(server.url))
        await asyncio.sleep(0.01)
        begin = time.monotonic()
        assert (await ask(server.url)).text == "good"
        assert time.monotonic() - begin < 2
        assert len((await first).text) == 100 * Role().max_tokens


async def test_a_text_far_longer_than_the_token_limit_is_cut_off() -> None:
    async with EndpointServer(says("a" * 10_000), says("a" * 900)) as server:
        assert await ask(server.url, max_tokens=9) == ChatReply("a" * 900, 10, 5, finish="length")
        assert await ask(server.url, max_tokens=9) == ChatReply("a" * 900, 10, 5)


async def test_a_packed_reply_is_read() -> None:
    async with raw_server(body(gzip.compress(completion("good")), "Content-Encoding: gzip")) as url:
        assert (await ask(url)).text == "good"


DEEP = "[" * 400 + '"x"' + "]" * 400
STRANGE = {
    "deep content": f'{{"choices": [{{"message": {{"content": {DEEP}}}}}]}}',
    "deep finish": f'{{"choices": [{{"message": {{"content": "x"}}, "finish_reason": {DEEP}}}]}}',
    "deep error": f'{{"error": {{"message": {DEEP}}}}}',
    "signs that steer a terminal": '{"error": {"message": "no \\ud800 \\u001b[2J", "code": "\\ud800"}}',
}


@pytest.mark.parametrize("sent", STRANGE.values(), ids=STRANGE.keys())
async def test_strange_values_make_an_error_that_can_be_shown(sent: str) -> None:
    async with EndpointServer(always=sends(sent)) as server:
        with pytest.raises(EndpointError) as caught:
            await ask(server.url)
        assert str(caught.value).isprintable()


async def test_half_a_surrogate_pair_can_be_stored() -> None:
    sent = '{"choices": [{"message": {"content": "x\\udc00"}, "finish_reason": "\\ud800"}]}'
    async with EndpointServer(sends(sent)) as server:
        assert await ask(server.url) == ChatReply("x?", finish="?")


async def test_a_redirect_to_bytes_that_are_no_text_can_be_shown() -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: http://x/\xff\x1b[2J\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(head) as url:
        with pytest.raises(EndpointError) as caught:
            await ask(url)
        assert str(caught.value).isprintable()


async def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EndpointServer(says("good"), says("direct")) as server:
        monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
        assert (await ask("http://model.example/v1")).text == "good"
        assert server.headers[0]["Host"] == "model.example"
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert (await ask(server.url)).text == "direct"


@pytest.mark.parametrize(
    "proxy",
    [
        *("user:secretpw@127.0.0.1:9", "http://user:secretpw@127.0.0.1:port", "http://user:secretpw@"),
        *("socks5://user:secretpw@127.0.0.1:1080", "127.0.0.1:3128", "http://127.0.0.1:99999"),
    ],
)
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
def test_a_proxy_that_cannot_be_used_is_one_line_without_its_password(
    variable: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(
        UserError, match=rf"^environment variable {variable} is no address.*NO_PROXY$"
    ) as caught:
        EndpointTransport(Role(model="m", base_url="http://model.example/v1"))
    assert "secretpw" not in str(caught.value) and "127" not in str(caught.value)
    EndpointTransport(Role(model="m", base_url="https://model.example/v1"))


async def test_a_proxy_that_declines_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(head) as url:
        monkeypatch.setenv("https_proxy", url.removesuffix("/v1"))
        with pytest.raises(EndpointError, match="the proxy of the environment answers HTTP 407: Proxy Auth"):
            await ask("https://model.example/v1", retries=0)


async def test_a_password_in_an_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:secretpw@127.0.0.1:9")
    with pytest.raises(EndpointError, match="cannot connect") as caught:
        await ask("http://model.example/v1", retries=0)
    assert "secretpw" not in str(caught.value)
    monkeypatch.delenv("http_proxy")
    head = b"HTTP/1.1 302 Found\r\nLocation: http://user:secretpw@x/v1\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(head) as url:
        with pytest.raises(EndpointError, match=r"redirects to http://\*\*\*@x/v1"):
            await ask(url)
