"""A display for runs that are started within a test."""

from __future__ import annotations

from safer_steer.workers import Progress


class Quiet:
    """Shows nothing, and keeps what was said in `lines`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, name: str) -> Progress:
        return lambda done, total, failed=0: None

    def say(self, line: str) -> None:
        self.lines.append(line)
