"""A limit on the requests a minute, kept by even spacing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SLACK_S = 0.05
"""Requests that come late, after a pause or on a busy machine, make up for at most so many seconds: the
largest burst is what the limit grants in them."""


class Pace:
    """Lets one request through at a time, a minute's worth of them spread evenly over the minute; in the
    order in which they came."""

    def __init__(self, per_minute: float | None) -> None:
        """None is no limit. Any number of event loops, one after the other, may use it: the clock is the
        process's."""
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._line = asyncio.Lock()

    async def turn(self, still_wanted: Callable[[], None]) -> None:
        """Return when the next request may be sent. `still_wanted` is called before the wait for it; what it
        raises leaves the turn to the next in line."""
        if not self._gap:
            return
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._line = loop, asyncio.Lock()
        async with self._line:
            still_wanted()
            while (now := time.monotonic()) < self._next:
                await asyncio.sleep(self._next - now)
            self._next = max(self._next, now - SLACK_S) + self._gap
