"""Runs that are started within a test: a display that shows nothing, the command and what it complains of."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from safer_steer.cli import app
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


def safer_steer(*arguments: object, stdin: str | None = None) -> Result:
    """The command, in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def complaint(result: Result) -> str:
    """The one line of a command that failed for a cause the user can mend."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    line = error_line(result.stderr)
    assert line.startswith("error: ")
    return line
