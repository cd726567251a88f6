"""The whole method, stage by stage.

A vision-language model that refuses a harmful request in one turn often complies over several. The user
spreads the goal over harmless-looking turns, relies on the picture, and keeps pressing. The method trains a
student that stays safe in dialogue and keeps helping. `run` does all of it, in the order of
docs/explanation/method.md:

1. **Seeds** (Stage I). Single-turn pairs of a picture and a question become scripts of 2-10 user turns, in
   three pools: benign, obfuscated, and red-team scripts. Red-team scripts for training are kept if they
   succeed against a fixed target. **Assembly**: the scripts for SFT and RL are drawn. With the section
   `assembly` they become disjoint data sets, STEER-SFT, STEER-RL and STEER-Bench, without duplicates and
   leaks, and every script follows rules 1 and 2.
2. **Bootstrap** (Stage II). A red agent talks to a blue expert on every script. An evaluator scores every
   turn. A dialogue is kept if its worst turn is safe and its turns are helpful on average.
3. **SFT** (Stage II). The student learns the assistant's turns of the dialogues kept.
4. **RL** (Stage III). The student answers. The Safety Tutor scores every turn and writes the next attack to
   fit the answer. The return of a trajectory depends on its worst and its mean turn (TCSR). GRPO compares the
   trajectories of one seed.
5. **Bench**. The base, SFT and SaFeR-Steer students answer the same held-out scripts, single-turn and
   multi-turn. A judge scores every turn. Safe twins of the scripts measure over-refusal.
6. **Report**. The table, the survival curves, and every dialogue.

All dialogues are played by one loop, `episode.play`. Stages exchange data only through files in the run
folder. A stage is entered in the manifest when its last file is written, so the same command resumes a run.
`stages/table.py` lists what each stage reads, needs, writes and asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from safer_steer.bench.judge_check.file import FILE as JUDGE_CHECK
from safer_steer.config import Config
from safer_steer.config.named import load_named
from safer_steer.config.rl import AlgorithmName
from safer_steer.errors import EndedElsewhere, GateLeft, NoResult, UserError
from safer_steer.files.store import row_counts
from safer_steer.run import agents, gates
from safer_steer.run.folder import Run, Show
from safer_steer.run.preflight import prepared
from safer_steer.stages import STAGES, built_on
from safer_steer.student import processes
from safer_steer.student.policy import engine_of
from safer_steer.workers import Progress

if TYPE_CHECKING:
    from safer_steer.bench.kept import KeptModel
    from safer_steer.bench.protocol import Answering
    from safer_steer.episode import Assistant


DATA = tuple(takewhile(lambda name: not STAGES[name].student, STAGES))
"""The stages that make data, before the first that loads the student."""


def run(
    config: Config,
    folder: Path,
    show: Show,
    fresh: bool = False,
    try_models: bool = False,
    data_alone: bool = False,
    override: Iterable[str] = (),
) -> Path:
    """The whole method; returns the report's path.

    Args:
        try_models: first send one small request to every endpoint that it will ask.
        data_alone: end before the training.
        override: gates of the config that may be out of their bands.

    Raises:
        UserError: something to fix. Nothing was started, or what is finished stays finished.
        NoResult: the bench left too many dialogues unscored; summary and report are written all the same.
        GateLeft: a quantity is out of its band. The stage that it is measured after is finished, or stands at
            a checkpoint or after RL's step 1. The report is written all the same.
    """
    gates.names(override, config)
    stages = DATA if data_alone else tuple(STAGES)
    with prepared(config, folder, show, stages, fresh, try_models=try_models) as run, reported(run):
        run.override = frozenset(override)
        seeds(run)
        assemble(run)
        bootstrap(run)
        if not data_alone:
            sft(run)
            rl(run)
            bench(run)
    return folder / "report.html"


def seeds(run: Run) -> None:
    """Stage I: seeds/{benign,obfuscated,red_team}.jsonl, from single-turn pairs or scripts of one's own."""

    def work(progress: Progress) -> None:
        from safer_steer.data.seeds.build import build_seeds
        from safer_steer.data.seeds.own_scripts import take_own_scripts
        from safer_steer.data.seeds.pools import dropped_in_words, refuse_nothing

        if run.config.seeds.scripts:
            take_own_scripts(run.config, run.folder)
            return
        making = build_seeds(run.config, run.folder, run.ask, agents.target(run), progress, run.survey)
        for line in run.wait(making):
            run.show.say(f"seeds: {line}")
        if dropped := dropped_in_words(run.folder / "seeds"):
            run.show.say(f"seeds: {dropped}")
        refuse_nothing(run.folder / "seeds", run.config.seeds.kinds)

    _do(run, "seeds", work)


def assemble(run: Run) -> None:
    """What SFT and RL are given, splits/{sft,rl}.jsonl, from the seeds.

    With the section `assembly` disjoint data sets, and splits/bench/*.jsonl; else drawn from the pools.
    """

    def work(progress: Progress) -> None:
        from safer_steer.bench.suites import suite_files, taken_names
        from safer_steer.data.assembly.build import assemble as build
        from safer_steer.data.assembly.splits import draw_from_pools

        if run.config.assembly is None:
            draw_from_pools(run.config, run.folder)
            return
        files, names = suite_files(run.config.bench.suites), taken_names(run.config.bench.suites)
        for note in run.wait(build(run.config, run.folder, run.ask, files, names, progress)):
            run.show.say(f"assemble: {note}")

    _do(run, "assemble", work)


def bootstrap(run: Run) -> None:
    """Stage II, the dialogues: bootstrap/{kept,rejected}.jsonl, from the scripts."""

    def work(progress: Progress) -> None:
        from safer_steer.data.bootstrap.rollout import roll_out

        for line in run.wait(roll_out(run.config, run.folder, run.ask, progress)):
            run.show.say(f"bootstrap: {line}")

    _do(run, "bootstrap", work)


def sft(run: Run) -> None:
    """Stage II, the training: sft/model, from the base student and the dialogues kept."""

    def work(progress: Progress) -> None:
        from safer_steer.training.sft import fine_tune

        fine_tune(run.config, run.folder, progress, run.show.say)

    _do(run, "sft", work)


def rl(run: Run) -> None:
    """Stage III: rl/model, from the SFT student (or the base, without bootstrapping), the scripts and the
    tutor, by one of `ALGORITHMS`. Whichever it is, its student is the run's `safer_steer`."""

    def work(progress: Progress) -> None:
        if not (run.folder / "rl" / "model").exists():
            start = agents.weights_of(run.folder, "sft") if run.config.rl.start_from == "sft" else None
            agents.ready(run.config, start, training=run.config.rl.traits.online)
        ALGORITHMS[run.config.rl.algorithm](run, progress)

    _do(run, "rl", work)


def _grpo(run: Run, progress: Progress) -> None:
    """The method's own."""
    from safer_steer.training.grpo import reinforce

    rl = run.config.rl
    reward = load_named("rl.reward", rl.reward) if rl.reward else None
    reinforce(
        run.config,
        run.folder,
        agents.tutor(run),
        progress,
        reward,
        run.wait,
        engine_of(rl.rollouts),
        gates.at_checkpoints(run),
        agents.audit(run),
    )


def _dpo(run: Run, progress: Progress) -> None:
    """A baseline: preference pairs of answers to the scripts, scored by the tutor."""
    from safer_steer.training.dpo import prefer

    engine = engine_of(run.config.rl.rollouts)
    prefer(run.config, run.folder, agents.tutor(run), progress, run.show.say, run.wait, engine)


def _cotrain(run: Run, progress: Progress) -> None:
    """An attacker learns beside the student."""
    from safer_steer.training.cotrain.loop import cotrain

    tutor, check = agents.tutor(run), agents.faithful(run)
    cotrain(run.config, run.folder, tutor, check, progress, run.wait, engine_of(run.config.rl.rollouts))


ALGORITHMS: dict[AlgorithmName, Callable[[Run, Progress], None]] = {
    "grpo": _grpo,
    "dpo": _dpo,
    "cotrain": _cotrain,
}
"""What trains the student in Stage III; `config/rl.py` has what sets each apart."""


def bench(run: Run) -> None:
    """The measurement: bench/<model>/<suite>.jsonl and summary.json.

    Raises:
        NoResult: too many dialogues were not scored. The stage is not finished then; the next run plays those
            once more.
    """
    names = run.config.bench.models
    measure(run, {name: partial(agents.student, run, name) for name in names}, "students")


def measure(
    run: Run,
    models: Mapping[str, Callable[[], Assistant | KeptModel]],
    answering: Answering,
    needs: tuple[str, ...] | None = None,
) -> None:
    """The bench with these models; `needs` as in `Run.once`. If it scores answers of an earlier bench, those
    to its attackers too, no attacker is asked. Raises as `bench` does."""
    judge_only = isinstance(answering, Path)

    def work(progress: Progress) -> None:
        from safer_steer.bench.measure import measure_models

        def say(line: str) -> None:
            run.show.say(f"bench: {line}")

        (run.folder / JUDGE_CHECK).unlink(missing_ok=True)  # of other dialogues
        judges = run.judges() if run.config.bench.judged else []
        if judges and run.config.judge_is_tutor:
            from safer_steer.report.judge_tables import tutor_is_judge

            say(f"warning: {tutor_is_judge(run.config.role('tutor').model)}")
        attacker = None if judge_only else partial(run.ask, "attacker")
        measure_models(run.config, run.folder, models, judges, run.wait, progress, say, attacker, answering)

    _do(run, "bench", work, needs, student=not judge_only)


@contextmanager
def reported(run: Run, always: bool = True) -> Iterator[None]:
    """Writes the report afterwards, also if too many dialogues are unscored, or a band is left; if not
    `always`, only then."""
    try:
        yield
    except (NoResult, GateLeft, EndedElsewhere) as error:
        if error.code in (NoResult.code, GateLeft.code):  # in every process of a launch, or in none
            report(run)
        raise
    if always:
        report(run)


def report(run: Run) -> None:
    """The page of what there is so far: report.html."""
    from safer_steer.report.page import write_report

    run.manifest.stages.pop("report", None)  # it takes a second, and the run may have more to show
    _do(run, "report", lambda _: write_report(run.folder))


WORK: dict[str, Callable[[Run], object]] = {
    "seeds": seeds,
    "assemble": assemble,
    "bootstrap": bootstrap,
    "sft": sft,
    "rl": rl,
    "bench": bench,
    "report": report,
}
"""What does each stage."""


def run_stage(
    stage: str,
    config: Config,
    folder: Path,
    show: Show,
    fresh: bool = False,
    try_models: bool = False,
    override: Iterable[str] = (),
) -> None:
    """One stage alone; those it builds on must be finished, and keep their gates. Raises as `run` does."""
    gates.names(override, config)
    if STAGES[stage].needs(config) and not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: no run in it (no config.yaml); give a run's, or begin with `seeds`")
    with (
        processes.joined(config.student.device),
        prepared(config, folder, show, (stage,), fresh, try_models=try_models) as run,
        reported(run, always=stage == "bench"),
    ):
        run.override = frozenset(override)
        for before in built_on(stage, config):
            if before in run.manifest.stages:
                gates.hold(run, before)
        if "assemble" in STAGES[stage].needs(config) and config.assembly is None:
            assemble(run)  # it draws, asks nobody and takes no time
        WORK[stage](run)


def _do(
    run: Run,
    stage: str,
    work: Callable[[Progress], object],
    needs: tuple[str, ...] | None = None,
    student: bool = True,
) -> None:
    """Do a stage's work unless it is done, then say how many rows it made and what is wrong with its
    attackers and judges, before the next stage pays for it; the gates hold. `needs` and `student` as in
    `Run.once`."""

    def doing(progress: Progress) -> None:
        from safer_steer.report.health import warnings

        try:
            work(progress)
        except UserError:
            run.forget_unparsable()  # the same command, or a fresh start, asks again
            raise
        if not processes.first():
            return
        if counts := row_counts(run.folder, STAGES[stage].counts(run.config)):
            run.show.say(f"{stage}: {counts}")
        for line in warnings(run.folder, stage):
            run.show.say(f"{stage}: {line}")

    run.once(stage, doing, needs, student)
    gates.hold(run, stage)
