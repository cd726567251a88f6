"""A bound on how long a step waits for its last verdicts.

An endpoint that does not answer one request holds up its trajectory for all tries and timeouts of the role,
and with it the step. Once everything else of the step is done, `LastVerdicts` gives such calls up. Their
trajectories are unscored, as after any failed call.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from safer_steer.config import Config, RoleName
from safer_steer.dialogue import Dialogue
from safer_steer.episode import Critic, Verdict
from safer_steer.errors import EndpointError

T = TypeVar("T")


def patience_of(config: Config, role: RoleName = "tutor") -> float:
    """Seconds that a step waits for a verdict of this role when nothing else of it is left to do."""
    seconds = config.rl.patience_s
    return 1.5 * config.role(role).timeout_s if seconds is None else seconds


class LastVerdicts:
    """The critic of a step's trajectories. It gives up calls that hang, if all trajectories still being
    played wait for such a call, and they are few.

    A call hangs once it has taken `seconds`. A trajectory whose calls return is never given up, however many
    turns it still has. If more than `most` trajectories hang, the endpoint is in trouble, and its own tries
    and waits decide.
    """

    def __init__(self, critic: Critic, seconds: float, most: int) -> None:
        self.critic, self.seconds, self.most = critic, seconds, most
        self.immediate = critic.immediate
        self._playing: Counter[str] = Counter()
        """Trajectories by their ids; one of which several turns are scored side by side counts as so many."""
        self._calls: dict[asyncio.Task[Any], tuple[str, float]] = {}
        """Verdicts being waited for: whose, and since when."""
        self._given_up: set[asyncio.Task[Any]] = set()

    @contextmanager
    def playing(self, trajectory: str) -> Iterator[None]:
        """While within, this trajectory is being played."""
        self._playing[trajectory] += 1
        try:
            yield
        finally:
            self._playing[trajectory] -= 1

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """While within, calls that hang are given up."""
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        """The critic's verdict. Raises as `waited`."""
        return await self.waited(dialogue.id, self.critic.judge(dialogue, turn, template))

    async def waited(self, trajectory: str, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a call for a trajectory gives: a verdict, or what else judges it. Raises `EndpointError` if it
        was given up."""
        call = asyncio.ensure_future(coroutine)
        self._calls[call] = trajectory, time.monotonic()
        try:
            return await call
        except asyncio.CancelledError:
            call.cancel()
            if call not in self._given_up:
                raise
            raise EndpointError(
                f"no verdict within {self.seconds:g} s (rl.patience_s), and nothing else of the step was left"
                " to do"
            ) from None
        finally:
            del self._calls[call]
            self._given_up.discard(call)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self.seconds / 10))
            late = time.monotonic() - self.seconds
            hanging = {call: whose for call, (whose, since) in self._calls.items() if since <= late}
            if self._playing <= Counter(hanging.values()) and self._playing.total() <= self.most:
                for call in hanging:
                    self._given_up.add(call)
                    call.cancel()
