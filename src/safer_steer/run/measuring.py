"""Measure models without training any: some behind endpoints, or answers that an earlier bench kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from safer_steer.bench.judge_check.labels import drawn
from safer_steer.bench.judge_check.measured import Again, Times, asked_again
from safer_steer.bench.judge_check.played import Played
from safer_steer.bench.kept import KeptModel, judging_config, kept_models, kept_replies
from safer_steer.config import Config
from safer_steer.config.file import load_config
from safer_steer.files.images import pictures_in
from safer_steer.files.store import file_name
from safer_steer.pipeline import measure, reported
from safer_steer.run import agents
from safer_steer.run.folder import Show
from safer_steer.run.preflight import prepared


def bench_endpoint(
    config: Config, name: str, folder: Path, show: Show, fresh: bool = False, try_models: bool = False
) -> Path:
    """Measure one model behind an endpoint (`roles.target`), called `name` in the results, and write its
    report; returns the report's path. Raises as `pipeline.run` does."""
    return _bench(config, {name: None}, folder, show, fresh, try_models)


def bench_endpoints(
    config: Config,
    models: Iterable[str],
    folder: Path,
    show: Show,
    fresh: bool = False,
    try_models: bool = False,
) -> Path:
    """The same for several models, each of `config.models_of("target")`, side by side in one folder. What an
    earlier bench in the folder played is kept."""
    return _bench(config, {model: model for model in models}, folder, show, fresh, try_models)


def _bench(
    config: Config,
    models: Mapping[str, str | None],
    folder: Path,
    show: Show,
    fresh: bool,
    try_models: bool,
) -> Path:
    """`models`: by their names in the results, those of the role `target`; None for its own."""
    with (
        prepared(config, folder, show, ("bench",), fresh, endpoint=True, try_models=try_models) as run,
        reported(run),
    ):
        assistants = {file_name(name): partial(agents.target, run, model) for name, model in models.items()}
        measure(run, assistants, needs=())
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
        run.read_also(path for path in kept_replies(source) if path.parent.resolve() != folder.resolve())
        measure(run, {name: partial(KeptModel, source / "bench" / name) for name in models}, (), kept=True)
    return folder / "report.html"


def judge_again(
    source: Path, played: Played, times: Times, sample: int, show: Show, folder: str
) -> tuple[Played, dict[str, Again]]:
    """Ask the judge of a bench again about `sample` of its dialogues, drawn at random; returns these and the
    scores by time. Its replies are kept in `source/judged/<folder>`. Raises as `pipeline.run` does."""
    given = load_config(source / "config.yaml")
    chosen = drawn(played.dialogues, sample, given.seed)
    dialogues = {place: played.dialogues[place] for place in chosen}
    judges = list(given.models_of("judge").values())
    config = judging_config(source, judges, given.bench.verdict)
    with prepared(config, source / "judged" / folder, show, ("bench",), kept=True) as run:
        pictures_of = pictures_in(source, config.student.max_pixels)
        progress = show.stage("judge")
        bench, format = config.bench, config.student.format
        asked = (run.judges(), bench.verdict, dialogues, times, format, pictures_of, progress)
        again = asked_again(*asked, bench.judge_requests)
        scores = run.wait(again)
        show.over()
    return Played(dialogues, played.twins), scores
