"""Does an experiment's runs: as many side by side as were asked for, each in a process of its own.

The same command again goes on where it stopped: a finished run is read, an unfinished one resumes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from safer_steer.bench.twin_probe import READS
from safer_steer.config import Adaptive, Config
from safer_steer.config.changes import EVERY_KIND, settings_of
from safer_steer.config.file import dump_config
from safer_steer.errors import GateLeft, NoResult, UserError
from safer_steer.experiments.measures import played_to_its_end
from safer_steer.experiments.spec import Arm, Experiment, config_of
from safer_steer.files.manifest import Manifest, config_sha256
from safer_steer.files.store import AtWork, canonical, content_id, inside, locked, whole_folder, write_atomic
from safer_steer.report.health.gates import kept
from safer_steer.stages import STAGES
from safer_steer.workers import side_by_side

SHARED = tuple(STAGES)[: list(STAGES).index("bench")]
"""The stages that can be shared: all before the bench."""
UP_TO_SFT = tuple(STAGES)[: list(STAGES).index("rl")]
FRESH = {
    "rl.algorithm": "cotrain",
    "rl.cotrain.learns": "attacker",
    "rl.cotrain.max_equal_groups": 1,
}
"""Settings of an attacker that learns against a finished student: one that does not give way leaves it
nothing to learn from, which is a result."""
NOT_RL_ALONE = ("seeds", "benign_share", "single_turn", "rollouts")
"""The keys of `rl` that bear on other stages: which scripts are kept for RL, and what samples the student's
answers."""


def run_id(config: Config) -> str:
    """Equal for configs that differ in the name alone. Keys that may change within a run count: arms may
    compare their values."""
    return content_id(settings_of(config.model_dump(mode="json"), EVERY_KIND) | {"name": ""})


def trunk_id(config: Config) -> str:
    """Equal for configs whose stages up to SFT come out the same. It errs on the side of difference: all but
    the name, the bench, the tutor and what RL does with its scripts counts."""
    return run_id(unmeasured(up_to_sft(config)))


def up_to_sft(config: Config) -> Config:
    """The config with tutor and RL's own settings left at their defaults: the same for all runs that share
    the stages up to SFT."""
    settings = _without_tutor(config)
    settings["rl"] = {key: settings["rl"][key] for key in NOT_RL_ALONE}
    return Config.model_validate(settings)


def unmeasured(config: Config, stays: Collection[str] = ()) -> Config:
    """The config with the bench's own settings left at their defaults, but for the keys that stay: the same
    for all runs that train the same students. The suites stay where scripts are kept out of training for
    them."""
    stays = {*stays, "suites"} if config.assembly else stays
    return Config.model_validate(
        config.model_dump(mode="json") | {"bench": config.bench.model_dump(mode="json", include={*stays})}
    )


def _without_tutor(config: Config) -> dict[str, Any]:
    """The config's settings. The tutor, whom only RL asks, is left out, unless it may describe pictures."""
    settings = config.model_dump(mode="json")
    if all(role.pictures != "caption" for _, role in config.each_role()):
        settings["roles"].pop("tutor", None)
    return settings


def branch(trunk: Path, folder: Path, config: Config) -> None:
    """Make a run folder in which the shared stages are done, with the files of `trunk` as hard links (copies
    where the file system has none). The folder is complete or absent. Does nothing if it is there."""
    if folder.exists():
        return
    with whole_folder(folder) as part:
        write_atomic(part / "config.yaml", dump_config(config))
        before = Manifest(trunk)
        shared = {name: entry for name, entry in before.stages.items() if name in SHARED}
        overrides = [one for one in before.overrides if one["stage"] in shared]
        for entry in shared.values():
            for name in entry["files"]:
                _link(inside(trunk, name), part / name)
            entry["config"] = config_sha256(part / "config.yaml")
        write_atomic(part / "manifest.json", canonical({"stages": shared, "overrides": overrides}))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


ENDS_S = 30
"""Seconds in which a stage ends after Ctrl-C: it waits for replies under way (`run.folder.SETTLE_S`)."""
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
    awaits: Job | None = None
    """Another job whose result it uses."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    failed: UserError | GateLeft | None = None
    """Why it failed; None if it did not."""

    def commands(self, override: Collection[str]) -> list[list[str]]:
        """What is run, without the interpreter; `override` are gates, of which it may not have all."""
        paths = [str(self.folder.with_suffix(".yaml")), "--out", str(self.folder)]
        overrides = [f"--override={gate}" for gate in self.config.gates if gate in override]
        return [[stage, *paths, *overrides] for stage in self.stages]

    def done(self) -> bool:
        """Whether an earlier command has finished it, within its gates. Raises `UserError` if an input was
        changed since."""
        manifest = Manifest(self.folder)
        if not (self.folder / "config.yaml").is_file() or not manifest.finished(self.stages[-1]):
            return False
        for stage in self.stages:
            manifest.refuse_other_inputs(stage)
        return all(kept(self.folder, self.config.gates, stage) for stage in self.stages)


def plan(experiment: Experiment, path: Path, out: Path) -> tuple[list[Job], dict[str, dict[int, Path]]]:
    """The jobs of an experiment, those that others wait for first, and each arm's folder by seed. Raises
    `UserError` if the config of an arm is wrong.

    Folders are named by what their config says, so experiments with the same `out` share what they have in
    common: `shared/ID` has the stages up to SFT, `trained/ID` RL, and `measured/ID` the bench. The base and
    the SFT student are measured together."""
    jobs: dict[Path, Job] = {}

    def up_to(config: Config) -> Job:
        stages = tuple(stage for stage in UP_TO_SFT if stage != "assemble" or config.assembly)
        before = unmeasured(up_to_sft(config))
        job = Job(f"up to SFT, seed {config.seed}", out / "shared" / trunk_id(config), before, stages)
        return jobs.setdefault(job.folder, job)

    def trained(name: str, config: Config, awaits: Job | None = None) -> Job:
        before = up_to(config)
        if awaits:  # it trains an attacker, and gates are a student's
            config = config.model_copy(update={"gates": {}})
        training = unmeasured(config, READS if config.probes_twins else ())
        job = Job(name, out / "trained" / run_id(training), training, ("rl",), before, awaits)
        return jobs.setdefault(job.folder, job)

    folders: dict[str, dict[int, Path]] = {name: {} for name in experiment.arms}
    for seed in experiment.seeds:
        for name, arm in experiment.arms.items():
            config, attacker = config_of(experiment, path, arm, seed), None
            label = f"{name}, seed {seed}"
            if arm.model == "safer_steer":
                job, student = trained(f"RL: {label}", config), "rl/model"
            else:
                job, student, config = up_to(config), "sft/model", up_to_sft(config)
            if experiment.fresh_attacker:
                against = FRESH | {"rl.cotrain.student": os.path.abspath(job.folder / student)}
                alone = config_of(experiment, path, Arm(set=against), seed)
                attacker = trained(f"fresh attacker: {label}", alone, job)
                paths = [os.path.abspath(attacker.folder / "rl" / "attacker")]
                adaptive = config.bench.adaptive or Adaptive()
                config.bench.adaptive = adaptive.model_copy(update={"trained": paths})
                config.bench.models = [arm.model]
            elif arm.model != "safer_steer":
                label, config.bench.models = f"base and SFT, seed {seed}", ["base", "sft"]
            job = Job(f"bench: {label}", out / "measured" / run_id(config), config, ("bench",), job, attacker)
            folders[name][seed] = jobs.setdefault(job.folder, job).folder
    ordered = sorted(jobs.values(), key=lambda job: (list(STAGES).index(job.stages[-1]), bool(job.awaits)))
    return ordered, folders


def checkable(job: Job) -> Config:
    """A job's config without the adapters that other jobs are yet to train."""
    config = job.config.model_copy(deep=True)
    if job.awaits:
        config.rl.cotrain.student = None
        if config.bench.adaptive:
            config.bench.adaptive.trained = []
    return config


def finished(experiment: Experiment, runs: dict[str, dict[int, Path]]) -> dict[str, dict[int, Path]]:
    """Of each arm's run folders, those of the seeds that are done in every arm, be it with too many dialogues
    unscored. Raises `UserError` if there is no such seed."""
    missing = {
        seed: [by_seed[seed] for by_seed in runs.values() if not _measured(by_seed[seed])]
        for seed in experiment.seeds
    }
    seeds = [seed for seed, folders in missing.items() if not folders]
    if not seeds:
        folder = missing[experiment.seeds[0]][0]
        raise UserError(
            f"no training seed is done in every arm yet: the bench in {folder} has not ended; run the"
            " experiment to go on"
        )
    return {arm: {seed: by_seed[seed] for seed in seeds} for arm, by_seed in runs.items()}


def _measured(folder: Path) -> bool:
    manifest = Manifest(folder)
    return manifest.finished("bench") or ("bench" not in manifest.stages and played_to_its_end(folder))


async def work(jobs: list[Job], processes: int, cores: int, say: Say, override: Collection[str] = ()) -> None:
    """Do all jobs, at most `processes` at once, each with its share of the cores. Output goes to
    `<folder>.log`. `override` are gates that may be out of their bands.

    Raises:
        UserError: one or more failed; once the others are done. Names the first, its log, and its last line.
        GateLeft: the first was ended by a gate.
    """
    room = asyncio.Semaphore(processes)
    finished = 0

    async def one(job: Job) -> None:
        nonlocal finished
        for earlier in filter(None, (job.after, job.awaits)):
            await earlier.over.wait()
            job.failed = job.failed or earlier.failed
        if not job.failed and not job.done():
            async with room:
                kind, name = job.folder.parts[-2:]
                with await _alone(job, job.folder.parents[1] / ".jobs" / f"{kind}-{name}", say):
                    if not job.done():  # by another experiment meanwhile
                        job.failed = await _do(job, max(1, cores // processes), say, override)
        finished += 1
        job.over.set()
        say(f"{finished} of {len(jobs)} over")

    await side_by_side(one(job) for job in jobs)
    failed = [(job.name, job.failed) for job in jobs if job.failed]
    if failed:
        name, why = failed[0]
        by_gate = isinstance(why, GateLeft)  # which says how to go on
        advice = "" if by_gate else "; fix that and run the same command to go on"
        raise type(why)(f"{len(failed)} of {len(jobs)} runs failed; the first, {name}: {why}{advice}")


async def _do(job: Job, threads: int, say: Say, override: Collection[str]) -> UserError | GateLeft | None:
    """Do a job that is not done, and say so. Returns why it failed."""
    begun = time.monotonic()
    say(f"{job.name}: begun")
    why = await _run_stages(job, threads, say, override)
    say(f"{job.name}: {'failed' if why else 'done'} in {time.monotonic() - begun:.0f} s")
    return why


async def _run_stages(
    job: Job, threads: int, say: Say, override: Collection[str]
) -> UserError | GateLeft | None:
    if job.after:
        branch(job.after.folder, job.folder, job.config)
    write_atomic(job.folder.with_suffix(".yaml"), dump_config(job.config))
    log = job.folder.with_suffix(".log")
    for command in job.commands(override):
        (await _alone(job, job.folder, say)).close()
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
            say(f"{job.name}: waiting for it to end; Ctrl-C again stops it at once")
            await _end(process)
            raise
        if code == NoResult.code:  # its dialogues are there, and the table counts those without a result
            say(f"{job.name}: {_last_line(log)}")
        elif code:
            kind = GateLeft if code == GateLeft.code else UserError
            return kind(f"{_last_line(log)} ({log})")
    return None


async def _alone(job: Job, folder: Path, say: Say) -> IO[bytes]:
    """The lock of a folder, once no other process has it. Another experiment may do the same job, and a stage
    outlives its experiment if that is killed alone."""
    waiting = False
    while True:
        try:
            return locked(folder)
        except AtWork:
            if not waiting:
                say(f"{job.name}: waiting for another process that is at work in {job.folder}")
            waiting = True
            await asyncio.sleep(1)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait for a stage's process after Ctrl-C. In a terminal it got that too, and waits for replies under
    way; a second one would stop it at once, so it is sent one only if it goes on. If this wait is cancelled,
    it is stopped at once."""
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), ENDS_S)
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), ENDS_S)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")
