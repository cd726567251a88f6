"""Commands before a run: `init` writes a small project, `check` asks every model of a config once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from safer_steer.cli.app import ConfigFile, Set, app, console, read_config
from safer_steer.errors import UserError, install, missing
from safer_steer.report.fitted_table import fitted
from safer_steer.stages import STAGES


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder for the project.")],
    from_folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Use your own data: a folder with pictures and one CSV file. Its columns: image (path in"
            " the folder), question; optionally id, intent (what is really meant), safe (true or false),"
            " answer, category, source.",
        ),
    ] = None,
) -> None:
    """Write a small project to start from: pairs with pictures, suites, a commented config, a README."""
    from safer_steer.cli.starter.project import write_project

    counts = write_project(folder, from_folder)
    for name, count in counts.items():
        what = "pair" if name == "pairs.jsonl" else "script"
        typer.echo(f"{folder / name}: {count} {what}{'s' * (count != 1)}")
    if "suites/twins.jsonl" not in counts:
        typer.echo(
            "no suites/twins.jsonl: it takes 4 pictures with safe: true; without it over-refusal is not"
            " measured"
        )
    if "suites/attacks.jsonl" not in counts:
        typer.echo("no suites/attacks.jsonl: it takes 4 pictures without safe: true")
    config = folder / "config.yaml"
    typer.echo(f"{config}: fill in base_url and model")
    typer.echo(f"Try it without a model: safer-steer run {config} --stub --out {folder / 'runs' / 'stub'}")
    if missing("train"):
        typer.echo(f"It makes the data and ends before training, which needs: {install('train')}")


@app.command()
def check(
    config: ConfigFile,
    stage: Annotated[
        list[str] | None, typer.Option(help="Only the roles of this stage; may be given several times.")
    ] = None,
    set: Set = None,
) -> None:
    """Send one small request, with a picture, to every model behind an endpoint, and show what it can do."""
    from safer_steer.run.calls_check import HEAD, check_roles, problems, roles_asked

    stages = stage or list(STAGES)
    if unknown := [name for name in stages if name not in STAGES]:
        raise UserError(f"check: no stage is called {unknown[0]}; give one of {', '.join(STAGES)}")
    settings = read_config(config, None, False, set)
    roles = roles_asked(settings, stages)
    if not roles:
        typer.echo(f"{config}: no role is asked at an endpoint; nothing to check")
        return
    typer.echo(f"one small request to each model of {', '.join(roles)}", err=True)
    checked = asyncio.run(check_roles(settings, roles))
    screen = console(140)
    screen.print(fitted(screen, HEAD, [one.row for one in checked], whole=(1,)), crop=False)
    if complaint := problems(checked):
        raise UserError(complaint)
