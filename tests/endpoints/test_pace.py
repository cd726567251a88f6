"""The request-rate limit, by the times at which requests arrive at a real server."""

import asyncio
import time

from endpoint_server import EndpointServer, fails, resets, says
from safer_steer.config import Role
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.endpoints.gate import Pace

HELLO = [{"role": "user", "content": "hello"}]


def apart(times: list[float], gap: float) -> bool:
    """Whether the n-th request came no sooner than n gaps after the first, but for what `Pace` lets late ones
    make up for."""
    return all(time - times[0] >= number * gap - 0.06 for number, time in enumerate(times))


async def test_requests_keep_their_pace_further_tries_included_and_the_wait_is_not_in_the_timeout() -> None:
    async with EndpointServer(says("one"), fails(500), resets, always=says("good")) as server:
        transport = EndpointTransport(
            Role(model="m", base_url=server.url, requests_per_minute=600, timeout_s=0.9)
        )
        await transport.complete(HELLO)  # it is late by the time it takes to open the client
        await asyncio.gather(*(transport.complete(HELLO) for _ in range(5)))
        assert server.calls == 8
        assert apart(server.times[1:], 0.1)
        assert server.times[-1] - server.times[1] > 0.5
        await asyncio.sleep(0.4)  # what was not used is not saved up
        await asyncio.gather(*(transport.complete(HELLO) for _ in range(3)))
        assert apart(server.times[8:], 0.1)
        await transport.aclose()


def test_the_pace_is_kept_from_one_event_loop_to_the_next() -> None:
    times: list[float] = []

    async def once(transport: EndpointTransport) -> None:
        async with EndpointServer(always=says("good")) as server:
            transport._base_url = server.url
            await asyncio.gather(*(transport.complete(HELLO) for _ in range(2)))
            await transport.aclose()
            times.extend(server.times)

    transport = EndpointTransport(Role(model="m", base_url="http://localhost/v1", requests_per_minute=150))
    asyncio.run(once(transport))
    asyncio.run(once(transport))
    assert len(times) == 4
    assert times[2] - times[1] > 0.3


async def test_each_role_has_a_pace_of_its_own() -> None:
    async with EndpointServer(always=says("good")) as server:
        transports = [
            EndpointTransport(Role(model=name, base_url=server.url, requests_per_minute=30)) for name in "abc"
        ]
        await asyncio.gather(*(transport.complete(HELLO) for transport in transports))
        for transport in transports:
            await transport.aclose()
    assert server.times[-1] - server.times[0] < 1.5


async def test_a_busy_machine_makes_up_for_little() -> None:
    pace, times = Pace(600), []

    async def send() -> None:
        await pace.turn(lambda: None)
        times.append(time.monotonic())

    sending = asyncio.gather(*(send() for _ in range(4)))
    await asyncio.sleep(0.01)
    time.sleep(0.5)
    await sending
    assert apart(times[1:], 0.1)
