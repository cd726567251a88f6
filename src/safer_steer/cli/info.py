"""Commands that show information before, during and after a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from safer_steer.cli.app import ConfigFile, app, console
from safer_steer.config.file import describe, load_config
from safer_steer.errors import UserError
from safer_steer.report.fitted_table import fitted


@app.command()
def cost(
    config: ConfigFile,
    sample: Annotated[
        int,
        typer.Option(min=1, help="Number of pairs, and of bench dialogues, that the estimate is made from."),
    ] = 40,
    success: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the tried red-team scripts that succeed.")
    ] = 0.5,
    keeps: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the scripts that follow a rule of the assembly.")
    ] = 0.8,
    turn_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a user turn written by a model.")] = 30,
    answer_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of an answer, without its thinking.")
    ] = 150,
    tokens_per_second: Annotated[
        float, typer.Option(min=0.1, help="Speed at which one reply is written.")
    ] = 40,
    overhead: Annotated[
        float, typer.Option(min=0, help="Share of the calls that are repeated after an error.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain numbers as JSON.")] = False,
) -> None:
    """Estimate the calls, tokens, money and time of a whole run from a sample of its data. Calls no model."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # a data set that is not here yet is an error, not a download
    from safer_steer.plan import Assumptions, show

    assumed = Assumptions(sample, success, keeps, turn_tokens, answer_tokens, tokens_per_second, overhead)
    show(load_config(config), assumed, console(100), as_json)


@app.command()
def health(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder; the run may still be going.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print plain numbers as JSON.")] = False,
) -> None:
    """Show how well attackers and judges of a run work: refusals, repeats, success by strategy, scores; and
    whether RL's groups differ."""
    from safer_steer.report.health import examine, tables, warnings
    from safer_steer.stages import STAGES

    found = examine(folder)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
        return
    screen, all_shown = console(160), tables(found)
    for shown in all_shown:
        screen.print(
            fitted(
                screen,
                shown.head,
                shown.rows,
                numbers=range(shown.labels, len(shown.head)),
                title=shown.title,
            ),
            crop=False,
        )
        screen.print(f"{shown.note}\n", markup=False, highlight=False)
    for stage in STAGES:
        for line in warnings(folder, stage):
            typer.echo(f"{stage}: {line}")
    if not all_shown:
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder}: no config.yaml in it; give a run folder")
        typer.echo(f"{folder}: no attacker and no judge has worked in this run yet")


@app.command("config")
def config_keys() -> None:
    """List every key of the config with its type, default, kind and description."""
    screen = console(240)
    head = ("key", "type", "default", "kind", "")
    screen.print(fitted(screen, head, list(describe()), whole=(0,)), crop=False)
    screen.print(
        "\nkind: another value of a `run` key is another run. A run may go on with another value of a `free`"
        " key, and of a `call` key, which its calls have from then on.",
        highlight=False,
    )
