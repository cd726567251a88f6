"""Checks before a run starts, so that a mistake costs one line and no work: endpoints, keys, suites,
pictures, the student."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING

from safer_steer.config import Config, RoleName
from safer_steer.config.bench import STEER
from safer_steer.data.seeds.identity import refuse_selected
from safer_steer.data.seeds.own_scripts import own_scripts, script_pictures
from safer_steer.dialogue import Seed
from safer_steer.errors import UserError, require_trackers
from safer_steer.files.manifest import Manifest
from safer_steer.run.folder import Run, Show
from safer_steer.run.roles import check_role, own_pictures, source_pictures, suite_pictures
from safer_steer.stages import STAGES
from safer_steer.student import processes
from safer_steer.training.refusals import refuse_later_pictures, refuse_lost_inputs

if TYPE_CHECKING:
    from safer_steer.bench.shared import Shared
    from safer_steer.data.seeds.identity import Survey
    from safer_steer.data.sources.pair import Pair
    from safer_steer.files.images import Trial
    from safer_steer.run.calls_check import Checked
    from safer_steer.student.renderer import Renderer


@contextmanager
def prepared(
    config: Config,
    folder: Path,
    show: Show,
    stages: tuple[str, ...],
    fresh: bool = False,
    endpoint: bool = False,
    kept: bool = False,
    try_models: bool = False,
) -> Iterator[Run]:
    """The run, opened after everything that its unfinished stages will use has been checked. Nothing is
    written before that. Raises `UserError` for the first problem.

    `endpoint`: the bench measures the models of `roles.target`, and no student is loaded. `kept`: it scores
    answers of an earlier run, and no model is asked for any. `try_models`: send one small request to every
    endpoint that these stages will ask (`calls_check.py`)."""
    with ExitStack() as stack:

        def open_run() -> None:
            checked = _checked(run, stages, endpoint, kept, try_models)
            stack.enter_context(run)
            for one in checked:
                run.charge(one.spent)

        run = Run(config, folder, show, fresh)
        processes.decided(open_run)
        if not processes.first():
            stack.enter_context(run)
        yield run


def _checked(
    run: Run, stages: tuple[str, ...], endpoint: bool, kept: bool, try_models: bool
) -> list[Checked]:
    """Check everything that the unfinished of these stages will use; the arguments are those of
    `prepared`."""
    config, fresh, manifest = run.config, run.fresh, Manifest(run.folder)
    waiting = [stage for stage in stages if fresh or stage in run.outdated or not manifest.finished(stage)]
    for stage in stages if not fresh else ():
        for name in STAGES[stage].needs(config) if stage in waiting else (stage,):
            if manifest.finished(name):
                manifest.refuse_other_inputs(name)
    if any(STAGES[stage].trains for stage in waiting):
        require_trackers(config.report_to)
    use_cores()
    if any(STAGES[stage].trains for stage in waiting):
        processes.refuse_data_parallel(config.student.device)
    begun = not fresh and (run.folder / "seeds").exists()
    besides: tuple[RoleName, ...] = ("target",) if endpoint else ()
    unasked: tuple[RoleName, ...] = ("attacker",) if kept else ()
    trial = None
    if not (endpoint or kept) and _loads_student(config, waiting):
        from safer_steer.student.load import PictureTrial

        trial = PictureTrial(config.student)
    run.survey = asyncio.run(check(config, waiting, besides, begun, unasked, trial, run.show.say))
    if trial:
        check_student(config, waiting, trial.renderer, run.show.say)
        if any(STAGES[stage].trains for stage in waiting):
            from safer_steer.student.training_trial import try_training

            try_training(config.student, trial.renderer, run.show.say)
    for stage in waiting:
        if line := STAGES[stage].warns(config):
            run.show.say(f"{stage}: {line}")
    return _try_models(run, waiting, besides, unasked) if try_models else []


def _loads_student(config: Config, stages: Sequence[str]) -> bool:
    """Whether one of these stages loads the student, for training or as Stage I's target."""
    if any(STAGES[stage].student for stage in stages):
        return True
    attacked = "seeds" in stages and "target" in STAGES["seeds"].asks(config)
    return attacked and config.student_is_target


def _try_models(
    run: Run, stages: Sequence[str], besides: Sequence[RoleName], unasked: Sequence[RoleName]
) -> list[Checked]:
    """Raises `UserError` if a model cannot do its jobs."""
    from safer_steer.run.calls_check import check_roles, problems, roles_asked

    roles = [role for role in roles_asked(run.config, stages, besides) if role not in unasked]
    if not roles:
        return []
    _refuse_unwritable(run.folder)
    run.resume_spending()
    run.show.say(f"check: one small request to each model of {', '.join(roles)}")
    checked = asyncio.run(check_roles(run.config, roles, run.ledger.may_spend))
    for one in checked:
        run.show.say(f"check: {one.line}")
    if problem := problems(checked):
        raise UserError(problem)
    return checked


def _refuse_unwritable(folder: Path) -> None:
    """Raises `UserError` if nothing can be written to a folder, which need not be there yet."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise UserError(f"{folder}: cannot be written to ({place}); choose another folder")


def cores_here() -> int:
    """How many cores this process may use: its affinity, and a container's limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def use_cores() -> None:
    """Use as many threads as this process has cores, in torch and all other OpenMP users, unless
    OMP_NUM_THREADS is set.

    Must be called before torch is loaded. More threads than cores make a step many times slower, and torch
    does not see a container's limit.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(cores_here()))


async def check(
    config: Config,
    stages: Sequence[str],
    besides: Sequence[RoleName] = (),
    begun: bool = False,
    unasked: Sequence[RoleName] = (),
    trial: Trial | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Survey | None:
    """Check everything these stages will use, and the additional roles `besides`, but not those in `unasked`.
    The sources are not checked again once Stage I has `begun`. Writes nothing. Returns the survey of the
    sources, or None. Raises `UserError` for the first problem.

    `trial` tries the pictures on the student, if these stages load it. `say` is told in one line what the
    suites have in common with the training data."""
    for stage in stages:
        for line in STAGES[stage].refusals(config):
            raise UserError(line)
    pictures: dict[str, Callable[[], Iterable[Path | bytes | None]]] = {}
    survey = None
    shared = _shared(config, stages)
    if "seeds" in stages and config.seeds.scripts:
        for _ in own_pictures(config, trial):  # decodes each
            pass
        if shared:
            for seed in own_scripts(config):
                shared.add((picture.original for picture in script_pictures(config, seed)), seed.script)
        if "rl" in stages and not config.rl.single_turn:
            refuse_later_pictures(own_scripts(config))
        pictures |= dict.fromkeys(("assemble", "bootstrap", "rl"), lambda: own_pictures(config))
    elif "seeds" in stages and not begun:
        survey = _survey_sources(config, trial, shared)
        pictures |= dict.fromkeys(("seeds", "assemble"), lambda: source_pictures(config))
        pictures |= dict.fromkeys(("bootstrap", "rl"), lambda: source_pictures(config, "train"))
    if shared and (line := shared.in_words()):
        say(
            f"bench: {line}; the student will be measured on what it was trained on: change the suites, or"
            " let `assembly: {}` and rl.seeds keep such pairs out of training"
        )
    if "bench" in stages or ("assemble" in stages and config.assembly):
        from safer_steer.bench.questions import check_sets
        from safer_steer.bench.suites import read_suites, taken_names

        suites = read_suites(config.bench.suites, trial if "bench" in stages else None)
        if config.bench.typographic:
            from safer_steer.bench.typographic import check_variants

            check_variants(suites, taken_names(config.bench.suites))
        if "bench" in stages:
            check_sets(config.bench.capability, config.bench.questions, trial)
            targets = list(config.models_of("target")) if "target" in besides else []
            for suite, measured in product(suites, targets or [config.student.model]):
                refuse_selected(suite.seeds, measured, f"{suite.folder / suite.name}.jsonl")
            if config.bench.adaptive:
                from safer_steer.bench.attacks import checked_intents

                suites = [*suites, *checked_intents(config, suites, trial, "attacker" in unasked)]
        steer = "seeds" in pictures and STEER in config.bench.suites
        pictures["bench"] = lambda: chain(
            suite_pictures(suites), source_pictures(config, "bench") if steer else ()
        )
    for stage in stages:
        roles = [role for role in (*STAGES[stage].asks(config), *besides) if role not in unasked]
        if any(config.role(role).pictures == "caption" for role in roles) and config.captioner:
            roles.append(config.captioner)
        for role in roles:
            await check_role(config, role, pictures.get(stage, list))
    return survey


def check_student(
    config: Config,
    stages: Sequence[str] = (),
    renderer: Renderer | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Load the student's processor, unless its `renderer` is given, and find the parts of its model, so that
    a wrong name or an unsuitable model fails now and not after Stage I, also if it cannot take the pictures
    that these stages show in later turns. No weights are loaded. Raises `UserError`. `say` is told what gets
    no adapter."""
    from safer_steer.student.load import empty_model, load_model_config, renderer_of
    from safer_steer.student.modules import parts_of, without_adapters
    from safer_steer.student.renderer import NO_LATER_PICTURES

    student = config.student
    renderer = renderer or renderer_of(student)
    if not renderer.later_pictures and (place := _first_later_picture(config, stages)):
        raise UserError(f"{place}: {renderer.refused(NO_LATER_PICTURES)}")
    if student.freeze_vision or student.lora_rank:
        empty = empty_model(load_model_config(student.base))
        parts_of(empty)
        if student.lora_rank and (left_out := without_adapters(empty)):
            say(left_out)
    if "rl" in stages and config.rl.traits.online:
        refuse_lost_inputs(renderer)


def _first_later_picture(config: Config, stages: Sequence[str]) -> str:
    """Where a script shows a picture after its first turn, among those that the student is to see in these
    stages; "" if none does."""
    from safer_steer.bench.suites import suites_named

    files: list[tuple[str, list[Seed]]] = []
    if config.seeds.scripts and "seeds" in stages and {"sft", "rl"} & set(stages):
        files.append((config.seeds.scripts, own_scripts(config)))
    if "bench" in stages:
        files += [
            (f"{suite.folder / suite.name}.jsonl", suite.seeds) for suite in suites_named(config.bench.suites)
        ]
        if config.bench.typographic and any(len(seed.turns) > 1 for _, seeds in files for seed in seeds):
            return "bench.typographic"
        if config.bench.adaptive and config.bench.adaptive.show_text:
            return "bench.adaptive.show_text"
        if config.bench.adaptive and config.bench.adaptive.intents:
            from safer_steer.bench.adaptive.intents import read_intents

            path = config.bench.adaptive.intents
            if later := next((intent.id for intent in read_intents(Path(path)) if intent.later), ""):
                return f"{path}: {later}"
    places = (
        f"{file}: {seed.id}" for file, seeds in files for seed in seeds if any(seed.images_by_turn()[1:])
    )
    return next(places, "")


def _shared(config: Config, stages: Sequence[str]) -> Shared | None:
    """What counts the scripts of the suites that the run would also train on; None if `assembly` prevents it,
    or nothing is both trained on and measured."""
    if config.assembly or not {"seeds", "bench"} <= set(stages):
        return None
    from safer_steer.bench.shared import Shared
    from safer_steer.bench.suites import suites_named

    suites = suites_named(config.bench.suites)
    return Shared(suites) if suites else None


def _survey_sources(config: Config, trial: Trial | None = None, shared: Shared | None = None) -> Survey:
    """Read all sources, decode every picture once, and try it on the student."""
    from safer_steer.data.seeds.identity import decode_pictures, survey

    def compare(pair: Pair, picture: str) -> None:
        if shared:
            shared.add([picture] if picture else [], [pair.question])

    surveyed = survey(config, compare)
    decode_pictures(config, surveyed, trial)
    return surveyed
