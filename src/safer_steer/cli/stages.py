"""Commands that run the whole method or a single stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from safer_steer.cli.app import (
    ConfigFile,
    Fresh,
    Limit,
    NoCheck,
    Out,
    Override,
    Set,
    Stub,
    app,
    console,
    read_config,
)
from safer_steer.config import Config
from safer_steer.config.file import config_in
from safer_steer.errors import GateLeft, NoResult, install, missing, require
from safer_steer.stages import STAGES
from safer_steer.student.processes import first


@app.command()
def run(
    config: ConfigFile,
    out: Out,
    set: Set = None,
    limit: Limit = None,
    stub: Stub = False,
    no_check: NoCheck = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show roles, data, steps, GPU memory and the full config, then stop. Calls, loads and"
            " writes nothing.",
        ),
    ] = False,
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            "--gpu-memory",
            min=1,
            help="With --dry-run: memory of each GPU in GB; by default, of the GPU here.",
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option("--processes", min=1, help="With --dry-run: number of training processes, one a GPU."),
    ] = 1,
    fresh: Fresh = False,
    override: Override = None,
) -> None:
    """Run the whole method, from seeds to report."""
    settings = read_config(config, limit, stub, set)
    data_alone = stub and not dry_run and bool(missing("train"))
    if not data_alone:
        require("train", "run")
    if dry_run:
        from safer_steer.plan.dry_run import dry_run as planned
        from safer_steer.plan.dry_run import show as show_plan
        from safer_steer.run.gates import names

        names(override or (), settings)
        card = gpu_memory * 1e9 if gpu_memory else None
        show_plan(planned(settings, out, processes, card), console(140))
        return
    from safer_steer import pipeline
    from safer_steer.run.display import Display

    with results(out), Display() as show:
        pipeline.run(settings, out, show, fresh, not no_check, data_alone, override or ())
    if data_alone:
        packages = ", ".join(missing("train"))
        typer.echo(
            f"run --stub ended before training, which needs {packages}: {install('train')}; then the same"
            " command goes on"
        )


def _stage(name: str, summary: str) -> None:
    """Register a command that runs only one stage."""

    def command(
        config: ConfigFile,
        out: Out,
        set: Set = None,
        limit: Limit = None,
        stub: Stub = False,
        fresh: Fresh = False,
        no_check: NoCheck = False,
        override: Override = None,
    ) -> None:
        _run_stage(name, read_config(config, limit, stub, set), out, fresh, not no_check, override or ())

    app.command(name, help=summary)(command)


def _run_stage(
    name: str, settings: Config, out: Path, fresh: bool, try_models: bool, override: Sequence[str]
) -> None:
    from safer_steer import pipeline
    from safer_steer.run.display import Display, Silence

    if STAGES[name].trains:
        require("train", name)
    with Display() if first() else Silence() as show:
        pipeline.run_stage(name, settings, out, show, fresh, try_models, override)


for _name in ("seeds", "assemble", "bootstrap", "sft", "rl"):
    _stage(_name, STAGES[_name].summary)


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Run folders. Also folders of experiments, or their files NAME.json, for the tables.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The page. By default report.html in the folder; if several are given, here.",
        ),
    ] = None,
) -> None:
    """Write one HTML page about a run, or about several side by side: what they have done so far."""
    from safer_steer.report.page import write_report
    from safer_steer.run.folder import is_run, report_again

    if out is None and len(folders) == 1 and is_run(folders[0]):  # the page is one of the run's files
        page = report_again(folders[0])
    else:
        page = write_report(*folders, page=out or (Path("report.html") if len(folders) > 1 else None))
    typer.echo(f"report: {page}")


@contextmanager
def results(out: Path) -> Iterator[None]:
    """After the work inside, prints the headline table and the report's path, also on `NoResult` and
    `GateLeft`."""
    try:
        yield
    except (NoResult, GateLeft):
        _show_results(out)
        raise
    _show_results(out)


def _show_results(out: Path) -> None:
    summary, page = out / "summary.json", out / "report.html"
    if summary.is_file():
        from safer_steer.bench.judge_check.file import corrected_rates
        from safer_steer.report.comparison import marks_in
        from safer_steer.report.fitted_table import print_tables
        from safer_steer.report.judge_tables import several_judges
        from safer_steer.report.main_table import console_table
        from safer_steer.report.measure_tables import console_tables
        from safer_steer.report.runs import read_run

        run, screen = read_run(out), console(130)
        screen.print(console_table(run.summary, corrected_rates(run.check), marks_in([run])))
        print_tables(screen, console_tables(run.summary))
        print_tables(console(160), several_judges(run.summary))
        if config_in(out).has_stubs:
            typer.echo("The answers in this run are stubs: the numbers mean nothing.")
    if page.is_file():
        typer.echo(f"report: {page}")
