"""A limit on requests per minute, enforced by even spacing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SLACK_S = 0.05
"""Late requests (after a pause, or on a busy machine) catch up on at most this many seconds. The largest
burst is the number of requests that the limit allows in this time."""


class Pace:
    """Lets requests through one at a time, spread evenly over the minute, in order of arrival."""

    def __init__(self, per_minute: float | None) -> None:
        """None means no limit. Several event loops may use it, one after the other: the clock belongs to the
        process."""
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._line = asyncio.Lock()

    async def turn(self, still_wanted: Callable[[], None]) -> None:
        """Return when the next request may be sent. `still_wanted` is called before the wait. If it raises,
        the next request in line gets the turn."""
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
