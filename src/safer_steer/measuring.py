"""Measure models without training any: one behind an endpoint, or answers that an earlier bench kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from safer_steer.bench.kept import KeptModel, kept_models
from safer_steer.config import Config
from safer_steer.pipeline import measure, reported
from safer_steer.run import agents
from safer_steer.run.folder import Show
from safer_steer.run.preflight import prepared
from safer_steer.store import file_name


def bench_endpoint(
    config: Config, name: str, folder: Path, show: Show, fresh: bool = False, try_models: bool = False
) -> Path:
    """Measure one model behind an endpoint (`roles.target`) and write its report; returns the report's path.
    Raises as `pipeline.run` does."""
    with (
        prepared(config, folder, show, ("bench",), fresh, endpoint=True, try_models=try_models) as run,
        reported(run),
    ):
        measure(run, {file_name(name): partial(agents.target, run)}, needs=())
    return folder / "report.html"


def judge_kept(
    config: Config, source: Path, folder: Path, show: Show, fresh: bool = False, try_models: bool = False
) -> Path:
    """Score the answers that an earlier bench kept in the run folder `source`, and write their report;
    returns its path. `config` is that run's, with another judge. Raises as `pipeline.run` does."""
    models = kept_models(source)
    with (
        prepared(config, folder, show, ("bench",), fresh, kept=True, try_models=try_models) as run,
        reported(run),
    ):
        measure(run, {name: partial(KeptModel, source / "bench" / name) for name in models}, needs=())
    return folder / "report.html"
