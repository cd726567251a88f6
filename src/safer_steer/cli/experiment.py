"""The command that compares variants of a config over training seeds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safer_steer.cli.app import Override, app
from safer_steer.config.file import config_in
from safer_steer.errors import UserError, require

if TYPE_CHECKING:
    from safer_steer.experiments.work import Job


@app.command()
def experiment(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The experiment's YAML file.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for its runs and its table. The same command again continues where it stopped;"
            " experiments in one folder share what they have in common.",
        ),
    ] = None,
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
    registers: Annotated[
        bool,
        typer.Option(
            "--register",
            help="Run nothing; write FILE.registered.json, which fixes claims, measures and rule before the"
            " runs, with the rule's power by simulation. Results mark what is not in it as exploratory.",
        ),
    ] = False,
    override: Override = None,
) -> None:
    """Compare variants of a config over several training seeds: one table, with intervals."""
    from safer_steer.experiments.registration import file_of, in_words, mark, register
    from safer_steer.experiments.results import results
    from safer_steer.experiments.shown import in_markdown, markdown, wall_times
    from safer_steer.experiments.spec import load_experiment
    from safer_steer.experiments.work import finished, plan, work
    from safer_steer.files.store import write_atomic
    from safer_steer.run.gates import names
    from safer_steer.run.preflight import cores_here

    if registers:
        registration = register(load_experiment(file), file)
        typer.echo(f"{file_of(file)}: registered; commit it before the runs\n{in_words(registration)}")
        return
    if out is None:
        raise UserError("--out is missing; give a folder for the runs and the table")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a folder")
    settings = load_experiment(file)
    jobs, runs = plan(settings, file, out)
    if not table_only:
        require("train", "experiment")
        overridden = names(override or (), *(job.config for job in jobs))
        _check(jobs)
        out.mkdir(parents=True, exist_ok=True)
        cores = cores_here()
        processes = processes or min(4, cores)
        asyncio.run(work(jobs, processes, cores, lambda line: typer.echo(line, err=True), overridden))
    runs = finished(settings, runs)
    outcome = results(settings, runs, jobs[-1].config.bench.max_unscored)
    outcome = mark(outcome, settings, file)
    text = markdown(outcome, settings)
    write_atomic(out / f"{file.stem}.json", json.dumps(outcome, ensure_ascii=False, indent=1) + "\n")
    write_atomic(out / f"{file.stem}.md", text)
    write_atomic(out / f"{file.stem}.seconds.md", in_markdown(wall_times(runs)) + "\n")
    typer.echo(text)


def _check(jobs: list[Job]) -> None:
    """Check what RL and the bench of every arm will use, before the stages up to SFT, which come first and
    check their own. Writes nothing. Raises `UserError` that names the job."""
    from safer_steer.experiments.work import checkable, run_id
    from safer_steer.run.preflight import check

    waiting: dict[object, Job] = {}
    for job in jobs:
        if job.after and not job.done():
            waiting.setdefault((job.stages, run_id(checkable(job).model_copy(update={"seed": 0}))), job)
    for job in waiting.values():
        try:
            asyncio.run(check(checkable(job), job.stages))
        except UserError as error:
            raise UserError(f"{job.name}: {error}") from None


@app.command("cross-play")
def cross_play(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run with co-training.")],
    at_most: Annotated[int, typer.Option(min=1, help="Scripts of RL to play, in their order.")] = 40,
    blank: Annotated[
        bool,
        typer.Option("--blank", help="Show the attacker pictures of one colour: does it use what it sees?"),
    ] = False,
    tries: Annotated[int, typer.Option(min=1, help="Dialogues for each script.")] = 1,
) -> None:
    """Play every checkpoint of the student against every one of the attacker.

    On the sandbox its attackers B and C play too, but not with --blank.
    """
    from safer_steer.bench.adaptive.crossplay import HELD_OUT, CrossPlay, matrix
    from safer_steer.data.assembly.splits import read_split
    from safer_steer.files.store import write_atomic
    from safer_steer.run import agents
    from safer_steer.run.display import Display
    from safer_steer.run.preflight import prepared
    from safer_steer.training.cotrain.loop import pool_of
    from safer_steer.training.trajectory import as_trajectory

    config = config_in(run, "a run with co-training")
    if config.rl.algorithm != "cotrain":
        raise UserError(f"{run}: rl.algorithm is {config.rl.algorithm}; give a run with co-training")
    with Display() as show, prepared(config, run, show, ("rl",)) as begun:
        pool = pool_of(config, run)
        scripts = read_split(run, "rl")[:at_most]
        seeds = [as_trajectory(seed, f"{seed.id}~{n}", n) for n in range(tries) for seed in scripts]
        play = CrossPlay(config, run, pool, agents.tutor(begun), blank, begun.wait)
        held_out = HELD_OUT if config.student.model == "sandbox" and not blank else ()
        columns = [*pool.steps("attacker"), *held_out]
        cells = matrix(play, seeds, pool.steps("student"), columns, show.say)
        write_atomic(play.folder.with_suffix(".json"), json.dumps(cells, indent=1) + "\n")
