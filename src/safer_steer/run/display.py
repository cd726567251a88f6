"""Progress display: on a terminal, a bar with the finish time; elsewhere, a line from time to time."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
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

from safer_steer.run.folder import Progress as ProgressOf

EVERY = 15.0
"""Seconds between two lines if there is no terminal."""


class FinishTime:
    """Estimates the finish time from the pace of this process. Work of earlier processes is not counted."""

    def __init__(self) -> None:
        self.started: float | None = None
        self.first = 0

    def seconds_left(self, done: int, total: int) -> float | None:
        """None if this process has done nothing yet, or everything is done."""
        now = time.monotonic()
        if self.started is None:
            self.started, self.first = now, done
        if done >= total or done <= self.first:
            return None
        return (now - self.started) * (total - done) / (done - self.first)


def at(seconds: float) -> str:
    """The time of day, the given number of seconds from now."""
    return (datetime.now() + timedelta(seconds=seconds)).strftime("%H:%M:%S")


class _Finish(ProgressColumn):
    """`finishes 14:05:10`"""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return Text("" if left is None or task.finished else f"finishes {at(left)}")


class Display:
    """A context manager that shows stages on standard error (see `run.folder.Show`); results go to standard
    output."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bars: Progress | None = None

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                _Finish(),
            )
            self.bars = Progress(*columns, console=self.console, transient=True)
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars:
            self.bars.stop()

    def say(self, line: str) -> None:
        if self.bars:  # the line replaces the bar of the finished stage
            for task in self.bars.task_ids:
                self.bars.remove_task(task)
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def stage(self, name: str) -> ProgressOf:
        return self._bar(name) if self.bars else self._lines(name)

    def _bar(self, name: str) -> ProgressOf:
        bars, finish = self.bars, FinishTime()
        assert bars is not None
        task = bars.add_task(name, total=None)

        def shown(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total, left=finish.seconds_left(done, total))

        return shown

    def _lines(self, name: str) -> ProgressOf:
        self.say(f"{name}: begins")
        finish, last = FinishTime(), time.monotonic()

        def shown(done: int, total: int) -> None:
            nonlocal last
            left = finish.seconds_left(done, total)
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                self.say(f"{name}: {done}/{total}" + (f", finishes {at(left)}" if left is not None else ""))

        return shown
