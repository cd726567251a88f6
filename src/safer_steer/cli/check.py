"""The `check` command: does every model of a config do its jobs?"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from safer_steer.cli.app import ConfigFile, app, console
from safer_steer.config.file import load_config
from safer_steer.errors import UserError
from safer_steer.report.fitted_table import fitted
from safer_steer.stages import STAGES


@app.command()
def check(
    config: ConfigFile,
    stage: Annotated[
        list[str] | None, typer.Option(help="Only the roles of this stage; may be given several times.")
    ] = None,
) -> None:
    """Send one small request, with a picture, to every model behind an endpoint, and show what it can do."""
    from safer_steer.run.calls_check import HEAD, check_roles, problems, roles_asked

    stages = stage or list(STAGES)
    if unknown := [name for name in stages if name not in STAGES]:
        raise UserError(f"check: no stage is called {unknown[0]}; give one of {', '.join(STAGES)}")
    settings = load_config(config)
    roles = roles_asked(settings, stages)
    if not roles:
        typer.echo(f"{config}: no role is asked at an endpoint; nothing to check")
        return
    typer.echo(f"one small request to each model of {', '.join(roles)}", err=True)
    checked = asyncio.run(check_roles(settings, roles))
    screen = console(140)
    screen.print(fitted(screen, HEAD, [found.row for found in checked], whole=(1,)), crop=False)
    if said := problems(checked):
        raise UserError(said)
