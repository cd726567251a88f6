"""Progress display: on a terminal, a bar with the finish time; elsewhere, a line from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event, Lock, Thread
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from safer_steer.workers import Progress as ProgressOf

EVERY = 15.0
"""Seconds between two lines if there is no terminal."""
RARELY = 300.0
"""Seconds between two lines at most: while nothing finishes, lines become rarer."""
SILENT = 3.0
"""Seconds without a word at the start, after which a line says what is going on."""
STALLED = 60.0
"""Seconds without a finished job, at least, that are worth a word."""
CHECKS = "checks of config, data and endpoints"


class State:
    """How far a stage is, and when it will end.

    The pace is that of this process, up to now: while nothing finishes, the finish time moves on, so it is
    never in the past. It is withdrawn when nothing has finished for long.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.done = self.total = self.failed = 0
        self._first: int | None = None
        self._began = self._last = clock()

    def update(self, done: int, total: int, failed: int = 0) -> None:
        over = done + failed
        if self._first is None:
            self._first, self._began = over, self.clock()
        if over != self.done + self.failed:
            self._last = self.clock()
        self.done, self.total, self.failed = done, total, failed

    @property
    def seconds_left(self) -> float | None:
        """None if this process has done nothing yet, or everything is done."""
        over = self.done + self.failed
        if self._first is None or over >= self.total or over <= self._first:
            return None
        return (self.clock() - self._began) * (self.total - over) / (over - self._first)

    @property
    def failures(self) -> str:
        return f"{self.failed} failed" if self.failed else ""

    @property
    def stalled_for(self) -> float | None:
        """Seconds since the last job finished, if that is over a minute and longer than any job so far."""
        silence, over = self.clock() - self._last, self.done + self.failed
        if self._first is None or over >= self.total:
            return None
        finished = over - self._first
        usual = (self._last - self._began) / finished if finished else 0.0
        return silence if silence >= max(STALLED, usual) else None

    @property
    def finish(self) -> str:
        """The time of day, or for how long nothing has finished; "" if neither is known."""
        stalled, seconds = self.stalled_for, self.seconds_left
        if stalled is not None:
            return f"nothing finished for {_span(stalled)}"
        if seconds is None:
            return ""
        return f"finishes {datetime.now() + timedelta(seconds=seconds):%H:%M:%S}"

    @property
    def line(self) -> str:
        """For instance "12/40, 3 failed, finishes 14:05:10"; "12 so far" where the total is not known."""
        so_far = f"{self.done}/{self.total}" if self.total else f"{self.done} so far"
        parts = (so_far, self.failures, self.finish)
        return ", ".join(part for part in parts if part)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


class _Of(ProgressColumn):
    def __init__(self, text: Callable[[State], str]) -> None:
        super().__init__()
        self.text = text

    def render(self, task: Task) -> Text:
        state = task.fields.get("state")
        return Text("" if state is None or task.finished else self.text(state))


class Silence:
    """Shows nothing: for the processes beside the first. A context manager, as `Display` is."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage(self, name: str) -> ProgressOf:
        return lambda done, total, failed=0: None

    def say(self, line: str) -> None:
        pass

    def over(self) -> None:
        pass


class Display:
    """A context manager that shows stages on standard error (see `run.folder.Show`); results go to standard
    output."""

    def __init__(self, every: float = EVERY, silent: float = SILENT) -> None:
        """`every` and `silent`: see `EVERY` and `SILENT`."""
        self.console = Console(stderr=True)
        self.bars: Progress | None = None
        self.every, self.silent = every, silent
        self._stage: tuple[str, State] | None = None
        self._last = time.monotonic()
        self._spoken = False
        self._shown, self._wait = (0, 0), every
        self._over, self._lock = Event(), Lock()

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Of(lambda state: state.failures),
                TimeElapsedColumn(),
                _Of(lambda state: state.finish),
            )
            self.bars = Progress(*columns, console=self.console, transient=True)
            self.bars.start()
            self.bars.add_task(CHECKS, total=None)
        else:
            Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self.bars:
            self.bars.stop()

    def say(self, line: str) -> None:
        with self._lock:
            self._spoken = True
            self._print(line)

    def stage(self, name: str) -> ProgressOf:
        state = State()
        if self.bars:
            return self._bar(self.bars, name, state)
        self.say(f"{name}: begins")
        with self._lock:
            self._stage, self._shown, self._wait = (name, state), (0, 0), self.every
        return state.update

    def over(self) -> None:
        if self.bars:
            self._remove_bars(self.bars)
        with self._lock:
            self._stage = None

    def _bar(self, bars: Progress, name: str, state: State) -> ProgressOf:
        self._remove_bars(bars)
        task = bars.add_task(name, total=None, state=state)

        def progress(done: int, total: int, failed: int = 0) -> None:
            state.update(done, total, failed)
            bars.update(task, completed=done, total=total or None)

        return progress

    @staticmethod
    def _remove_bars(bars: Progress) -> None:
        for task in bars.task_ids:
            bars.remove_task(task)

    def _watch(self) -> None:
        """Print a line from time to time, whether or not anything has finished."""
        while not self._over.wait(min(1.0, self.every / 2, self.silent / 2)):
            with self._lock:
                silence = time.monotonic() - self._last
                if not self._spoken and silence >= self.silent:
                    self._spoken = True
                    self._print(CHECKS)
                elif self._stage and (self._stage[1].total or self._stage[1].done):
                    self._report(*self._stage, silence)

    def _report(self, name: str, state: State, silence: float) -> None:
        """Print how far the stage is, if it is time for that."""
        now = (state.done, state.failed)
        if now != self._shown:
            self._wait = self.every
        if silence >= self._wait:
            self._print(f"{name}: {state.line}")
            self._shown, self._wait = now, min(2 * self._wait, RARELY)

    def _print(self, line: str) -> None:
        self._last = time.monotonic()
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
