"""A word while a server is waited for: it may be busy with another request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
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
