"""Shared by all commands: the app, common options, and error handling."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from safer_steer import __version__
from safer_steer.config import Config
from safer_steer.config.file import load_config
from safer_steer.config.keys import describe, read_keys
from safer_steer.errors import (
    EndedElsewhere,
    ExitCode,
    GateLeft,
    NoResult,
    SpendingLimit,
    UserError,
    could_not_write,
    shortened,
    what_is_missing,
)
from safer_steer.stages import STAGES
from safer_steer.student import processes

PATH_ERRORS = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
OUTSIDE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EADDRINUSE, errno.ENAMETOOLONG)
"""With those above: OS errors caused by the machine or by a path that was given, not by a bug here."""
KERNELS = ("/proc/", "/sys/")
"""Where the kernel says of a file that cannot be made there that it does not exist."""


class _OneLine(TyperGroup):
    """Ends a command with one line on standard error, without a traceback, if the cause is not a bug."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _end(f"error: {error}", error.code)
        except NoResult as error:
            _end(f"no result: {error}", error.code)
        except GateLeft as error:
            _end(f"gate: {error}", error.code)
        except SpendingLimit as error:
            _end(f"spending limit: {error}", error.code)
        except ModuleNotFoundError as error:
            line = what_is_missing(error)
            if line is None:
                raise
            _end(f"error: {line}", ExitCode.TO_FIX)
        except KeyboardInterrupt:
            _end("interrupted; run the same command to continue", ExitCode.INTERRUPTED)
        except OSError as error:
            where = error.filename2 or error.filename or "this machine"
            in_kernel = str(where).startswith(KERNELS)
            if not (isinstance(error, PATH_ERRORS) or error.errno in OUTSIDE or in_kernel):
                raise
            what = f"{shortened(str(where))}: {error.strerror}"
            _end(f"error: {what}; fix that and run the same command to continue", ExitCode.TO_FIX)
        except EndedElsewhere as ended:
            raise typer.Exit(ended.code) from None
        except Exception as error:
            if processes.is_lost_connection(error):
                line = "error: another process of this launch was killed; run the same command to continue"
                _end(line, ExitCode.TO_FIX)
            if could_not_write(error):
                line = "error: weights or a checkpoint could not be written whole; make room on the disk"
                _end(f"{line} and run the same command to continue", ExitCode.TO_FIX)
            if not processes.may_speak():
                raise typer.Exit(1) from None
            _name_keys(error)
            raise


def _name_keys(error: Any) -> None:
    """Where an option is unknown, name the config keys of that name, which --set sets."""
    option, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if option and context and any(parameter.name == "set" for parameter in context.command.params):
        name = option.lstrip("-").replace("-", "_")
        keys = (key for key, *_ in describe() if key.rpartition(".")[2] == name and "[" not in key)
        error.possibilities = [f"--set {key}=..." for key in keys] or error.possibilities


def _end(line: str, code: ExitCode) -> None:
    if processes.may_speak():
        say(line, err=True)
    raise typer.Exit(code)


def say(line: str, err: bool = False) -> None:
    """Print text that may hold what a data set or a file's name says: on one line, and without what could
    steer a terminal."""
    typer.echo(shortened(line, len(line)), err=err)


ABOUT = (
    "Train vision-language models to stay safe and helpful over a whole dialogue, and measure for how many"
    " turns any model stays safe.\n\n"
    "Start with `init DIR`: it writes a small project to fill in. `run` does the whole method; `bench`"
    " measures a model behind an endpoint.\n\n"
    f"Exit codes: {'; '.join(f'{code:d} {code.meaning}' for code in ExitCode)}."
)
app = typer.Typer(cls=_OneLine, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
sandbox = typer.Typer(
    cls=_OneLine,
    no_args_is_help=True,
    help="The sandbox, a small fictional world: its student, its suites and its agents.",
)
app.add_typer(sandbox, name="sandbox")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"safer-steer {__version__}")
        raise typer.Exit


@app.callback(help=ABOUT)
def about(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Under torchrun only the stages that train go on."""
    command = context.invoked_subcommand or ""
    if not (command in STAGES and STAGES[command].trains):
        processes.refuse_several(command)


ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        help="YAML file. Relative paths in it are relative to the file. `safer-steer config` lists its keys.",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", help="Run folder. The same command again continues where it stopped.")
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=1,
        help="For a first try: at most N pairs a source, scripts, dialogues and steps. Overrides `limit`"
        " of CONFIG.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a key of the config, for instance bench.dialogues=40, or roles.*.concurrency=8 for all"
        " roles; may be given several times. `safer-steer config` lists the keys.",
    ),
]
Stub = Annotated[
    bool,
    typer.Option(
        "--stub",
        help="Dry walk: made-up answers in place of every model, and the shipped student. Needs no key and"
        " no endpoint, but the data that CONFIG names.",
    ),
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Start over: delete what an earlier run wrote in the run folder. Paid replies (cache.sqlite)"
        " stay.",
    ),
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--override",
        metavar="GATE",
        help="Go on although this gate's quantity is out of its band, and note that in the manifest; may be"
        " given several times.",
    ),
]
NoCheck = Annotated[
    bool, typer.Option("--no-check", help="Do not send a small request to every model before the start.")
]


def read_config(file: Path, limit: int | None, stub: bool, keys: Sequence[str] | None) -> Config:
    """A config's file with the options that change it."""
    return load_config(file, limit, stub, read_keys(keys or ()))


def console(width: int) -> Console:
    """A console on standard output, `width` columns wide if it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=width)
