"""The `chat` command: talk with one of a run's students."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from rich.console import Console
from rich.text import Text

from safer_steer.cli.app import app, console
from safer_steer.config import ModelName
from safer_steer.config.file import config_in
from safer_steer.errors import UserError, require

if TYPE_CHECKING:
    from safer_steer.run.chat import Conversation

HELP = (
    "/image FILE begins a new dialogue about a picture, /new one about none,"
    " /show FILE shows a picture with your next words, /quit ends."
)


@app.command()
def chat(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    model: Annotated[
        ModelName | None,
        typer.Option(help="base, sft or safer_steer; the one that was trained last if not given."),
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="<path>", help="Picture that the dialogue is about.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Sampling temperature; that of the bench if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers to the same words.")] = 0,
) -> None:
    """Talk with one of a run's students in the terminal, or answer the lines of standard input."""
    require("student", "chat")
    from safer_steer.run.chat import Conversation, last_trained
    from safer_steer.run.folder import is_run
    from safer_steer.run.preflight import use_cores

    if not is_run(folder):
        raise UserError(f"{folder}: no run in it; give the folder of `safer-steer run --out`")
    measured = sorted(path.name for path in (folder / "bench").glob("*/"))
    if measured and not set(measured) & set(get_args(ModelName)):
        raise UserError(
            f"{folder}: measured {', '.join(measured)} behind an endpoint; give a run that has a student"
        )
    use_cores()
    model = model or last_trained(folder)
    talk = Conversation(config_in(folder), folder, model, temperature, seed)
    talk.begin(image)
    typer.echo(f"{model} of {folder}. {HELP}", err=True)
    screen = console(100)
    for line in _lines():
        if line == "/quit":
            break
        _take(line, talk, screen)
    talk.close()


def _take(line: str, talk: Conversation, screen: Console) -> None:
    """Do one line: a command, or words for the student."""
    from safer_steer.episode import ContextFull

    command, _, rest = line.partition(" ")
    try:
        if command == "/new":
            talk.begin()
        elif command == "/image":
            talk.begin(rest.strip())
        elif command == "/show":
            talk.show(rest.strip())
        elif command.startswith("/"):
            raise UserError(f"{command}: unknown; {HELP}")
        else:
            answer = talk.ask(line)
            if answer.thinking:
                screen.print(Text(f"thinking: {answer.thinking}", style="dim"))
            screen.print(Text(answer.text), end="\n\n")
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
    except ContextFull:
        typer.echo("error: the dialogue is too long for another turn; /new begins one", err=True)


def _lines() -> Iterator[str]:
    """The lines of a person at a terminal, or of a file; without empty ones."""
    at_terminal = sys.stdin.isatty()
    cast(TextIOWrapper, sys.stdin).reconfigure(errors="replace")
    if at_terminal:
        with suppress(ImportError):
            import readline  # noqa: F401  # makes `input` remember and edit lines
    while True:
        try:
            line = input("you: " if at_terminal else "").strip()
        except EOFError:
            return
        if line:
            yield line
