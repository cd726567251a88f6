"""Rate limits: whatever an endpoint's HTTP 429 looks like, no call is lost, and requests become fewer and
then more again. Times are scaled down."""

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from endpoint_server import EndpointServer, Step, fails, says
from safer_steer.config import Role
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.endpoints.gate import Gate
from safer_steer.errors import EndpointError

HELLO = [{"role": "user", "content": "hello"}]
HEADERS = pytest.mark.parametrize("retry_after", ["0.02", None], ids=["Retry-After", "no Retry-After"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EndpointTransport, "first_wait_s", 0.01)
    monkeypatch.setattr(EndpointTransport, "longest_wait_s", 0.5)


def busy(retry_after: str | None) -> Step:
    return fails(429, "slow down", headers={"Retry-After": retry_after} if retry_after else None)


def transport_to(server: EndpointServer, **settings: Any) -> EndpointTransport:
    """Without any further tries: a 429 does not count as one."""
    return EndpointTransport(
        Role(**{"model": "m", "base_url": server.url, "retries": 0, "concurrency": 32} | settings)
    )


async def ask_all(transport: EndpointTransport, calls: int) -> None:
    try:
        replies = await asyncio.gather(*(transport.complete(HELLO) for _ in range(calls)))
    finally:
        await transport.aclose()
    assert [reply.text for reply in replies] == ["good"] * calls


@HEADERS
async def test_an_endpoint_that_is_busy_for_a_while_loses_no_call(retry_after: str | None) -> None:
    free_at = time.monotonic() + 0.6

    async def step(request: web.Request, sent: dict[str, Any]) -> web.StreamResponse:
        return await (says("good") if time.monotonic() > free_at else busy(retry_after))(request, sent)

    async with EndpointServer(always=step) as server:
        await ask_all(transport_to(server), 120)
        assert server.calls - 120 < 100, "while the endpoint is busy, few requests are sent"


@HEADERS
async def test_a_bucket_of_tokens_loses_no_call(retry_after: str | None) -> None:
    """100 requests a second, 10 at once at most."""
    tokens, filled = 10.0, time.monotonic()

    async def step(request: web.Request, sent: dict[str, Any]) -> web.StreamResponse:
        nonlocal tokens, filled
        now = time.monotonic()
        tokens, filled = min(10.0, tokens + 100 * (now - filled)), now
        if tokens < 1:
            return await busy(retry_after)(request, sent)
        tokens -= 1
        return await says("good", after_s=0.01)(request, sent)

    async with EndpointServer(always=step) as server:
        await ask_all(transport_to(server), 120)
        assert server.calls < 120 * 4


@HEADERS
async def test_a_limit_on_requests_in_flight_loses_no_call_and_is_found(retry_after: str | None) -> None:
    async def step(request: web.Request, sent: dict[str, Any]) -> web.StreamResponse:
        if server.in_flight > 8:
            return await busy(retry_after)(request, sent)
        return await says("good", after_s=0.02)(request, sent)

    async with EndpointServer(always=step) as server:
        transport = transport_to(server)
        await ask_all(transport, 200)
        assert server.calls < 200 * 2
        assert transport._gate.limit < 16


async def test_the_pace_recovers() -> None:
    async with EndpointServer(*[busy(None)] * 8, always=says("good", after_s=0.01)) as server:
        transport = transport_to(server, concurrency=16)
        await ask_all(transport, 8)
        assert transport._gate.limit < 16
        await ask_all(transport, 150)
        assert transport._gate.limit == 16
        assert server.most_in_flight == 16


async def test_a_429_is_given_up_when_its_time_is_over_however_short_the_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with EndpointServer(always=busy("0.01")) as server:
        begin = time.monotonic()
        with pytest.raises(EndpointError, match=r"\d+ tries: for [01] s HTTP 429: slow down"):
            await ask_all(transport_to(server, rate_limit_s=0.4), 1)
        assert 0.4 <= time.monotonic() - begin < 1.5
        assert server.calls < 10, "the wait is never shorter than the backoff, which grows"
        gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
        assert min(gaps[3:]) > 0.04
    assert caplog.messages == [
        f"{server.url} limits the rate (HTTP 429); fewer requests are sent until it takes more"
    ]


async def test_calls_of_which_others_get_replies_are_patient() -> None:
    """Five calls at one request every 0.1 s wait for longer than `rate_limit_s`, and none is given up."""
    last = 0.0

    async def step(request: web.Request, sent: dict[str, Any]) -> web.StreamResponse:
        nonlocal last
        if time.monotonic() < last + 0.1:
            return await busy("0.03")(request, sent)
        last = time.monotonic()
        return await says("good")(request, sent)

    async with EndpointServer(always=step) as server:
        await ask_all(transport_to(server, rate_limit_s=0.25), 5)


async def test_a_retry_after_of_years_is_capped_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert EndpointTransport.longest_retry_after_s == 600
    monkeypatch.setattr(EndpointTransport, "longest_retry_after_s", 0.05)
    always = busy("1000000000")
    async with EndpointServer(always, always, fails(503, headers={"Retry-After": "1e999"})) as server:
        server.always = says("good")
        await ask_all(transport_to(server, retries=1), 1)
    told = [text for text in caplog.messages if "Retry-After" in text]
    assert told == [
        f"{server.url} asks to wait for 1e+09 s (Retry-After); waiting 0.05 s",
        f"{server.url} asks to wait for inf s (Retry-After); waiting 0.05 s",
    ]


async def test_who_waits_longest_is_let_in_first_and_who_is_cancelled_takes_no_seat() -> None:
    gate, entered = Gate(1), []

    async def call(place: int) -> None:
        await gate.enter(place)
        entered.append(place)
        await asyncio.sleep(0)
        gate.leave()

    first, second, third, fourth = (gate.place() for _ in range(4))
    await gate.enter(first)
    waiting = [asyncio.create_task(call(place)) for place in (fourth, third, second)]
    await asyncio.sleep(0)
    gate.leave()  # lets the second in, which is cancelled before it runs
    waiting[2].cancel()
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert entered == [fourth]
    await asyncio.wait_for(gate.enter(first), 1)
