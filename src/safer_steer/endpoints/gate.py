"""How many of a role's requests are in flight, and when the next may be sent: fewer and later while the
endpoint answers HTTP 429."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

FIRST_S = 5.0
"""Seconds before the first line. Each further line comes after twice as long."""


@contextmanager
def waiting_for(who: str, most_s: float) -> Iterator[None]:
    """Say on the terminal who is waited for, how long so far, and for how long at most."""
    telling = asyncio.create_task(_tell(who, most_s))
    try:
        yield
    finally:
        telling.cancel()


async def _tell(who: str, most_s: float) -> None:
    begun, after = time.monotonic(), FIRST_S
    while True:
        await asyncio.sleep(begun + after - time.monotonic())
        log.warning("waiting for an answer of %s: %.3g s of at most %g s", who, after, most_s)
        after *= 2


SLACK_S = 0.05
"""Late requests (after a pause, or on a busy machine) catch up on at most this many seconds. The largest
burst is the number of requests that the limit allows in this time."""


class Pace:
    """Lets requests through one at a time, spread evenly over the minute, in order of arrival."""

    def __init__(self, per_minute: float | None) -> None:
        """None means no limit. Several event loops may use it, one after the other."""
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


class Gate:
    """Lets calls in by their place in line, at most `most` at once. Several event loops may use it, one after
    the other.

    `limit` follows the endpoint as TCP follows a network. A 429 halves it, but only once for the requests
    that were in flight together. Replies raise it: by one each until half of what was too many, and slowly
    from there on. After a 429 nobody is let in for a while."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.streak = 0
        """How often `limit` was halved since the last reply."""
        self.last_reply = -math.inf
        self._steady = float(most)
        self._cut_at = -math.inf
        self._closed_until = -math.inf
        self._places = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forget()

    def place(self) -> int:
        """The next place in line. A call keeps its place when it enters again after a 429."""
        self._places += 1
        return self._places

    async def enter(self, place: int) -> None:
        """Return when the call at this place may send. Every `enter` needs one `leave`."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._forget()
        admitted = loop.create_future()
        heapq.heappush(self._line, (place, admitted))
        self._admit()
        try:
            await admitted
        except asyncio.CancelledError:
            if not admitted.cancelled():  # let in, but cancelled before it could go on
                self.leave()
            raise

    def leave(self) -> None:
        """The call is over, or waits for its next try outside."""
        self._in_flight -= 1
        self._admit()

    def replied(self) -> None:
        self.last_reply = time.monotonic()
        self.streak = 0
        if self.limit < self.most:
            self.limit = min(self.most, self.limit + (1 if self.limit < self._steady else 1 / self.limit))

    def refused(self, sent_at: float) -> None:
        """A 429 came for a request sent at this time (`time.monotonic`)."""
        if sent_at < self._cut_at:
            return
        too_many = min(self.limit, self._in_flight)
        self.limit = max(1.0, too_many / 2)
        if not self.streak:  # in a row of 429s without a reply, the number in flight says nothing
            self._steady = self.limit
        self.streak += 1
        self._cut_at = time.monotonic()

    def close_for(self, seconds: float) -> None:
        self._closed_until = max(self._closed_until, time.monotonic() + seconds)

    def _forget(self) -> None:
        """Start without calls: a new event loop knows nothing of the last one's."""
        self._in_flight = 0
        self._line: list[tuple[int, asyncio.Future[None]]] = []
        self._alarm: asyncio.TimerHandle | None = None

    def _admit(self) -> None:
        wait = self._closed_until - time.monotonic()
        if wait > 0:
            if self._alarm is None and self._loop is not None:
                self._alarm = self._loop.call_later(wait, self._open)
            return
        while self._line and self._in_flight < int(self.limit):
            _, admitted = heapq.heappop(self._line)
            if not admitted.done():
                self._in_flight += 1
                admitted.set_result(None)

    def _open(self) -> None:
        self._alarm = None
        self._admit()
