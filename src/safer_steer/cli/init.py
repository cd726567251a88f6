"""The `init` command: writes a small project to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safer_steer.cli.app import app


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder for the project.")],
    from_folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Use your own data: a folder with pictures and one CSV file. Its columns: id, image (path"
            " in the folder), question; optionally intent (what is really meant), safe (true or false),"
            " answer, category, source.",
        ),
    ] = None,
) -> None:
    """Write a small project to start from: pairs with pictures, suites, a commented config, a README."""
    from safer_steer.starter.project import write_project

    for name, count in write_project(folder, from_folder).items():
        typer.echo(f"{folder / name}: {count} {'pairs' if name == 'pairs.jsonl' else 'scripts'}")
    config = folder / "config.yaml"
    typer.echo(f"{config}: fill in base_url and model")
    typer.echo(f"Try it without a model: safer-steer run {config} --stub --out {folder / 'runs' / 'stub'}")
