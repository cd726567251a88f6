"""Shared by all commands: the app, common options, and error handling."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from safer_steer.errors import NoResult, SpendingLimit, UserError
from safer_steer.extras import what_is_missing

OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EADDRINUSE}
"""OS errors caused by the machine, not by a bug here."""


class _OneLine(TyperGroup):
    """Ends a command with one line on standard error, without a traceback, if the cause is not a bug."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _end(f"error: {error}", 2)
        except NoResult as error:
            _end(f"no result: {error}", 3)
        except SpendingLimit as error:
            _end(f"spending limit: {error}", 2)
        except ModuleNotFoundError as error:
            line = what_is_missing(error)
            if line is None:
                raise
            _end(f"error: {line}", 2)
        except KeyboardInterrupt:
            _end("interrupted; run the same command to go on", 130)
        except OSError as error:
            if error.errno not in OUTSIDE:
                raise
            _end(
                f"error: {error.filename or 'this machine'}: {error.strerror}; fix that and run the same command to go on",
                2,
            )


def _end(line: str, code: int) -> None:
    typer.echo(" ".join(line.split()), err=True)
    raise typer.Exit(code)


app = typer.Typer(
    cls=_OneLine,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Vision-language models that hold in dialogue.",
)
sandbox = typer.Typer(
    cls=_OneLine, no_args_is_help=True, help="The embedded world: its student, its suites, its agents."
)
app.add_typer(sandbox, name="sandbox")

ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML file; `safer-steer config` lists its keys.")
]
Out = Annotated[
    Path, typer.Option("--out", help="Run folder. The same command again goes on where it stopped.")
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh", help="Start over: delete what a run wrote there. Paid replies (cache.sqlite) stay."
    ),
]


def console(width: int) -> Console:
    """A console on standard output, `width` columns wide if it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=width)
