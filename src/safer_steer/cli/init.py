"""The `init` command: writes a small project to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safer_steer.cli.app import app
from safer_steer.errors import install, missing


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
