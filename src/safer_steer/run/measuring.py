"""Measure models without training any: some behind endpoints, or answers that an earlier bench kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from safer_steer.bench.judge_check.labels import drawn
from safer_steer.bench.judge_check.measured import Again, Times, asked_again
from safer_steer.bench.judge_check.played import Place, ScoredBench
from safer_steer.bench.kept import (
    KeptModel,
    forget_other_answers,
    judging_config,
    kept_models,
    kept_replies,
)
from safer_steer.bench.results import judged_in
from safer_steer.config import Config
from safer_steer.config.file import config_in
from safer_steer.dialogue import Dialogue
from safer_steer.files.images import pictures_in
from safer_steer.files.store import file_name
from safer_steer.pipeline import measure, reported
from safer_steer.run import agents
from safer_steer.run.folder import Show
from safer_steer.run.preflight import prepared


def bench_endpoints(
    config: Config,
    folder: Path,
    show: Show,
    fresh: bool = False,
    try_models: bool = False,
    name: str | None = None,
) -> Path:
    """Measure the models of `config.models_of("target")` side by side in one folder, and write their report;
    returns its path. What an earlier bench in the folder played is kept. `name` is what the results call a
    single one. Raises as `pipeline.run` does."""
    models = {name: None} if name else {model: model for model in config.models_of("target")}
    with (
        prepared(config, folder, show, ("bench",), fresh, endpoint=True, try_models=try_models) as run,
        reported(run),
    ):
        assistants = {file_name(name): partial(agents.target, run, model) for name, model in models.items()}
        measure(run, assistants, "target", ())
    return folder / "report.html"


def judge_kept(
    config: Config, source: Path, folder: Path, show: Show, fresh: bool = False, try_models: bool = False
) -> Path:
    """Score the answers that an earlier bench kept in the run folder `source`, and write their report;
    returns its path. `config` is that run's, with other judges. Verdicts that were paid for there, or by
    another bench that judged it, are paid for no second time. Raises as `pipeline.run` does."""
    models = kept_models(source)
    with (
        prepared(config, folder, show, ("bench",), fresh, kept=True, try_models=try_models) as run,
        reported(run),
    ):
        caches = [path for path in kept_replies(source) if path.parent.resolve() != folder.resolve()]
        for cache in caches:
            show.say(f"judge: verdicts in {cache} count; if that folder is not yours, move the file away")
        run.read_also(caches)
        if forget_other_answers(source, folder):
            run.manifest.stages.pop("bench", None)
        measure(run, {name: partial(KeptModel, source / "bench" / name) for name in models}, source, ())
    return folder / "report.html"


def judge_again(
    source: Path, bench: ScoredBench, times: Times, sample: int, show: Show, folder: str
) -> tuple[dict[Place, Dialogue], dict[str, Again]]:
    """Ask the judge of a bench again about `sample` of its dialogues, drawn at random; returns these and the
    scores by time. Its replies are kept in `judged_in(source)/<folder>`. Raises as `pipeline.run` does."""
    settings = config_in(source)
    places = drawn(bench.dialogues, sample, settings.seed)
    dialogues = {place: bench.dialogues[place] for place in places}
    judges = [role.model_dump() for role in settings.models_of("judge").values()]
    config = judging_config(source, judges, {"bench.verdict": settings.bench.verdict})
    with prepared(config, judged_in(source) / folder, show, ("bench",), kept=True) as run:
        pictures_of = pictures_in(source, config.student.max_pixels)
        progress = show.stage("judge")
        scores = run.wait(asked_again(config, run.judges(), dialogues, times, pictures_of, progress))
        show.over()
    return dialogues, scores
