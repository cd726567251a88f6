"""A display for runs that are started within a test."""

from __future__ import annotations

from safer_steer.run.display import CHECKS
from safer_steer.workers import Progress


def error_line(stderr: str) -> str:
    """The one line of an error. On a slow machine, the line about the checks may come before it."""
    [line] = [line for line in stderr.splitlines() if line != CHECKS]
    return line


class Quiet:
    """Shows nothing, and keeps what was said in `lines`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, name: str) -> Progress:
        return lambda done, total, failed=0: None

    def say(self, line: str) -> None:
        self.lines.append(line)

    def over(self) -> None:
        pass
