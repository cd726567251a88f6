"""Ends a bench whose model or judge fails again and again, before more is spent on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from safer_steer.dialogue import Dialogue, Turn
from safer_steer.endpoints.chat import ChatModel
from safer_steer.episode import Assistant, Critic, Reply, Rewinding, Verdict
from safer_steer.errors import BoundaryError, EndpointError, UserError
from safer_steer.workers import PATIENCE, Breaker


class Watch:
    """Counts, for model, judge and attackers apart, the calls that failed in a row, over all dialogues."""

    def __init__(self) -> None:
        self._breaker = Breaker()
        self._ended = ""
        self._apart: dict[str, Watch] = {}

    def apart(self, who: str) -> Watch:
        """A watch over `who` alone, whose failing ends nothing else; always the same for one name."""
        return self._apart.setdefault(who, Watch())

    @contextmanager
    def call(self, who: str) -> Iterator[None]:
        """One call is made inside. `who` names the role, the model and its endpoint, for the error message.

        Raises:
            UserError: it is the last of `PATIENCE` in a row, or an earlier call was. After that, nobody is
                asked any more: a verdict's error surfaces only at the end of its dialogue.
        """
        if self._ended:
            raise UserError(self._ended)
        try:
            yield
        except BoundaryError as error:
            if not self._breaker.note(1, kind=who):
                raise
            self._ended = (
                f"bench: {who} failed {PATIENCE} times in a row, the last: {error.fault}; fix the"
                " server or its address and run the same command to go on, or name another model and add"
                " --fresh; replies that are paid for are kept in both cases"
            )
            raise UserError(self._ended) from None
        else:
            self._breaker.note(0, kind=who)


def label_of(model: ChatModel) -> str:
    """A model and its endpoint, for an error message."""
    return model.role.model + (f" at {model.role.base_url}" if model.role.base_url else "")


class WatchedAssistant:
    """An assistant under a watch."""

    def __init__(self, assistant: Assistant, watch: Watch, who: str) -> None:
        self.assistant, self.watch, self.who = assistant, watch, who

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        with self.watch.call(self.who):
            return await self.assistant.answer(dialogue, asked)


class WatchedUser:
    """An attacker under a watch: only an endpoint that does not answer ends the bench. What it declines, or
    cannot do, is counted."""

    def __init__(self, user: Rewinding, watch: Watch, who: str) -> None:
        self.user, self.watch, self.who = user, watch, who

    async def speak(self, dialogue: Dialogue, template: Turn) -> Reply:
        with self._call():
            return await self.user.speak(dialogue, template)

    async def takes_back(self, dialogue: Dialogue) -> bool:
        with self._call():
            return await self.user.takes_back(dialogue)

    @contextmanager
    def _call(self) -> Iterator[None]:
        declined: BoundaryError | None = None
        with self.watch.call(self.who):
            try:
                yield
            except EndpointError:
                raise
            except BoundaryError as error:
                declined = error
        if declined:
            raise declined


class WatchedCritic:
    """A critic under a watch."""

    def __init__(self, critic: Critic, watch: Watch, who: str) -> None:
        self.critic, self.watch, self.who = critic, watch, who
        self.immediate = critic.immediate

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        with self.watch.call(self.who):
            return await self.critic.judge(dialogue, turn, template)
