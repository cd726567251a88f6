"""The command that compares variants of a config over training seeds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from safer_steer.cli.app import app
from safer_steer.errors import UserError
from safer_steer.extras import require


@app.command()
def experiment(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The experiment's YAML file.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for its runs and its table. The same command again continues where it stopped;"
            " experiments in one folder share what they have in common.",
        ),
    ],
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", min=1, help="Runs side by side; by default, as many as there are cores, at most 4."
        ),
    ] = None,
    table_only: Annotated[
        bool,
        typer.Option(
            "--table-only", help="Run nothing; write the tables of the seeds that are done in every arm."
        ),
    ] = False,
) -> None:
    """Compare variants of a config over several training seeds: one table, with intervals."""
    from safer_steer.experiments.spec import load_experiment
    from safer_steer.experiments.table import markdown, results
    from safer_steer.experiments.work import check_settings, finished, plan, work
    from safer_steer.run.preflight import cores_here
    from safer_steer.store import write_atomic

    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a folder")
    settings = load_experiment(file)
    jobs, runs = plan(settings, file, out)
    if not table_only:
        require("train", "experiment")
        check_settings(jobs)
        out.mkdir(parents=True, exist_ok=True)
        cores = cores_here()
        asyncio.run(work(jobs, processes or min(4, cores), cores, lambda line: typer.echo(line, err=True)))
    found = results(settings, finished(settings, runs), jobs[-1].config.bench.max_unscored)
    text = markdown(found, settings)
    write_atomic(out / f"{file.stem}.json", json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    write_atomic(out / f"{file.stem}.md", text)
    typer.echo(text)
