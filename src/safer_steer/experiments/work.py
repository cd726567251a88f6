"""Does an experiment's runs: as many side by side as were asked for, each in a process of its own.

The same command again goes on where it stopped: a finished run is read, an unfinished one resumes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from safer_steer.config import Config
from safer_steer.config_file import dump_config
from safer_steer.errors import UserError
from safer_steer.experiments.spec import Experiment, config_of
from safer_steer.experiments.trunk import UP_TO_SFT, branch, run_id, trunk_id, unmeasured, up_to_sft
from safer_steer.manifest import Manifest
from safer_steer.stages import STAGES
from safer_steer.store import write_atomic
from safer_steer.workers import side_by_side

NO_RESULT = 3
"""Exit code of a run that left too many dialogues unscored."""
Say = Callable[[str], None]


@dataclass
class Job:
    """Stages of a run, which other runs may share."""

    name: str
    """For people: arm and seed."""
    folder: Path
    config: Config
    stages: tuple[str, ...]
    after: Job | None = None
    """The job whose stages this one goes on from."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    failed: str | None = None
    """Why it failed; None if it did not."""

    @property
    def commands(self) -> list[list[str]]:
        """What is run, without the interpreter."""
        paths = [str(self.folder.with_suffix(".yaml")), "--out", str(self.folder)]
        return [[stage, *paths] for stage in self.stages]

    def done(self) -> bool:
        """Whether an earlier command has finished it."""
        return (self.folder / "config.yaml").is_file() and Manifest(self.folder).finished(self.stages[-1])


def plan(experiment: Experiment, path: Path, out: Path) -> tuple[list[Job], dict[str, dict[int, Path]]]:
    """The jobs of an experiment, those that others wait for first, and each arm's folder by seed.

    Folders are named by what their config says, so experiments with the same `out` share what they have in
    common: `shared/ID` has the stages up to SFT, `trained/ID` RL, and `measured/ID` the bench. The base and
    the SFT student are measured together.

    Raises:
        UserError: the config of an arm is wrong.
    """
    jobs: dict[Path, Job] = {}
    folders: dict[str, dict[int, Path]] = {name: {} for name in experiment.arms}
    for seed in experiment.seeds:
        for name, arm in experiment.arms.items():
            config = config_of(experiment, path, arm, seed)
            said, before = f"{name}, seed {seed}", up_to_sft(config)
            stages = tuple(stage for stage in UP_TO_SFT if stage != "assemble" or config.assembly)
            job = Job(
                f"up to SFT, seed {seed}", out / "shared" / trunk_id(config), unmeasured(before), stages
            )
            job = jobs.setdefault(job.folder, job)
            if arm.model == "safer_steer":
                training = unmeasured(config)
                job = Job(f"RL: {said}", out / "trained" / run_id(training), training, ("rl",), job)
                job = jobs.setdefault(job.folder, job)
            else:
                said, config = f"base and SFT, seed {seed}", before
                config.bench.models = ["base", "sft"]
            job = Job(f"bench: {said}", out / "measured" / run_id(config), config, ("bench",), job)
            folders[name][seed] = jobs.setdefault(job.folder, job).folder
    ordered = sorted(jobs.values(), key=lambda job: list(STAGES).index(job.stages[-1]))
    return ordered, folders


def finished(experiment: Experiment, runs: dict[str, dict[int, Path]]) -> dict[str, dict[int, Path]]:
    """Of each arm's run folders, those of the seeds that are done in every arm.

    Raises:
        UserError: there is no such seed.
    """
    seeds = [
        seed
        for seed in experiment.seeds
        if all(Manifest(by_seed[seed]).finished("bench") for by_seed in runs.values())
    ]
    if not seeds:
        raise UserError("no training seed is done in every arm yet; run the experiment without --table-only")
    return {arm: {seed: by_seed[seed] for seed in seeds} for arm, by_seed in runs.items()}


async def work(jobs: list[Job], processes: int, cores: int, say: Say) -> None:
    """Do all jobs, at most `processes` at once, each with its share of the cores. Output goes to
    `<folder>.log`.

    Raises:
        UserError: one or more failed; the others are done by then. Names the first, its log, and its last
            line.
    """
    room = asyncio.Semaphore(processes)
    finished = 0

    async def one(job: Job) -> None:
        nonlocal finished
        if job.after:
            await job.after.over.wait()
            if job.after.failed:
                job.failed = job.after.failed
        if not job.failed and not job.done():
            async with room:
                begun = time.monotonic()
                say(f"{job.name}: begun")
                job.failed = await _do(job, max(1, cores // processes))
                took = f"in {time.monotonic() - begun:.0f} s"
                say(f"{job.name}: {'failed' if job.failed else 'done'} {took}")
        finished += 1
        job.over.set()
        say(f"{finished} of {len(jobs)} over")

    await side_by_side(one(job) for job in jobs)
    failed = [job for job in jobs if job.failed]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs failed; the first, {failed[0].name}: {failed[0].failed};"
            " fix that and run the same command to go on"
        )


async def _do(job: Job, threads: int) -> str | None:
    """Do one job. Returns why it failed, or None."""
    if job.after:
        branch(job.after.folder, job.folder, job.config)
    write_atomic(job.folder.with_suffix(".yaml"), dump_config(job.config))
    log = job.folder.with_suffix(".log")
    for command in job.commands:
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "safer_steer", *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={"OMP_NUM_THREADS": str(threads)} | os.environ,
            )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
        if code == NO_RESULT:  # its dialogues are there, and the table counts those without a result
            continue
        if code:
            return f"{_last_line(log)} ({log})"
    return None


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")
