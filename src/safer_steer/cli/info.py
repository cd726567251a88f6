"""Commands that show information before, during and after a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from safer_steer.cli.app import ConfigFile, Set, app, console, read_config
from safer_steer.config.file import read_yaml
from safer_steer.config.keys import describe
from safer_steer.errors import UserError
from safer_steer.files.store import write_atomic
from safer_steer.report.fitted_table import fitted, print_tables


@app.command()
def cost(
    config: ConfigFile,
    run: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Folder of a run, or of a first try with --limit: what it asked corrects the estimate. By"
            " default the folder of CONFIG, if that is a run's.",
        ),
    ] = None,
    success: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the tried red-team scripts that succeed; by default 0.5."),
    ] = None,
    keeps: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of the scripts that follow a rule of the assembly; by default 0.8."
        ),
    ] = None,
    turn_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a user turn written by a model; by default 30.")
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of an answer, without its thinking; by default 150.")
    ] = None,
    reason_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens that a judge says before its scores; by default 35.")
    ] = None,
    tokens_per_second: Annotated[
        float, typer.Option(min=0.1, help="Speed at which one reply is written.")
    ] = 40,
    overhead: Annotated[
        float, typer.Option(min=0, help="Share of the calls that are repeated after an error.")
    ] = 0,
    set: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain numbers as JSON.")] = False,
) -> None:
    """Estimate the calls, tokens, money and time of a whole run, also from what a first try has asked. Calls
    no model."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # a data set that is not here yet is an error, not a download
    from safer_steer.plan.calls_table import show

    if run is None and (config.parent / "manifest.json").is_file():
        run = config.parent
    show(
        read_config(config, None, False, set),
        console(100),
        run,
        as_json,
        success=success,
        keeps=keeps,
        turn_tokens=turn_tokens,
        answer_tokens=answer_tokens,
        reason_tokens=reason_tokens,
        tokens_per_second=tokens_per_second,
        overhead=overhead,
    )


@app.command()
def health(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder; the run may still be going.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print plain numbers as JSON.")] = False,
) -> None:
    """Show how well attackers and judges of a run work: refusals, repeats, success by strategy, scores; and
    whether RL's groups differ."""
    from safer_steer.report.health import examine, gates_table, tables, warnings
    from safer_steer.stages import STAGES

    examined = examine(folder)
    if as_json:
        typer.echo(json.dumps(examined.as_dict(), indent=1))
        return
    screen, all_shown = console(160), tables(examined)
    print_tables(screen, all_shown)
    config = folder / "config.yaml"
    if gates := gates_table(folder, read_yaml(config) if config.is_file() else {}):
        print_tables(screen, [gates])
    for stage in STAGES:
        for line in warnings(folder, stage):
            typer.echo(f"{stage}: {line}")
    if not all_shown:
        if not config.is_file():
            raise UserError(f"{folder}: no config.yaml in it; give a run folder")
        typer.echo(f"{folder}: no attacker and no judge has worked in this run yet")
    typer.echo(f"This counts the files as they are; `safer-steer verify {folder}` says which were changed.")


@app.command("config")
def config_keys(
    word: Annotated[str, typer.Argument(metavar="[WORD]", help="Only keys that contain it.")] = "",
) -> None:
    """List every key of the config with its type, default, kind and description."""
    keys = [row for row in describe() if word in row[0]]
    if not keys:
        raise UserError(f"config: no key contains {word!r}; `safer-steer config` lists them all")
    screen = console(240)
    screen.print(fitted(screen, ("key", "type", "default", "kind", ""), keys, whole=(0,)), crop=False)
    screen.print(
        "\nkind: another value of a `run` key is another run. A run may go on with another value of a `free`"
        " key, and of a `call` key, which its calls have from then on.",
        highlight=False,
    )


@app.command()
def protocol(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a bench.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file.")] = Path("protocol.yaml"),
) -> None:
    """Copy out how a bench was measured (judge, prompts, thresholds, sampling, suites by hash), to measure
    another model alike with `bench --protocol`."""
    from safer_steer.bench.protocol import FILE, read

    measured_by = read(run / FILE)
    write_atomic(out, (run / FILE).read_bytes())
    typer.echo(f"{out}: protocol {measured_by.sha256}")
