"""What a page is made from: run folders and results of experiments, read from the paths that were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from safer_steer.bench.judge_check.file import Corrected, corrected_rates, read_check
from safer_steer.bench.results import Answered, Summary, in_order, joined, judged_in
from safer_steer.config.file import BoundedLoader
from safer_steer.errors import UserError
from safer_steer.files.store import read_json, read_rows
from safer_steer.report.played import Bench, read_bench

Row = dict[str, Any]
OF_A_RUN = ("config.yaml", "summary.json", "bench")
"""A folder with one of these is a run's."""


@dataclass(frozen=True)
class ShownRun:
    """One run folder, read."""

    folder: Path
    name: str
    """What tells it from the other runs of the page; "" if it is the only one."""
    title: str
    config: Row
    summary: Summary
    steps: list[Row]
    """The rows of rl/metrics.jsonl."""
    check: Row
    """judge_check.json."""
    bench: Bench

    def key(self, model: str) -> str:
        """The name of one of its models on the page."""
        return joined(self.name, model)


def read_given(paths: Sequence[Path]) -> tuple[list[ShownRun], list[Row]]:
    """The runs, and the results of experiments, in the order given; what is given twice is read once.

    For a run whose answers were scored later (`bench --judge-only`), the scored results are read.

    Args:
        paths: run folders, folders of experiments, or files `NAME.json` of experiments.

    Raises:
        UserError: a path is none of these, or a file is damaged; names it.
    """
    folders, experiments = [], []
    for path in dict.fromkeys(path.resolve() for path in paths):
        if path.is_dir() and any((path / name).exists() for name in OF_A_RUN):
            folders += _results_of(path)
        elif results := _experiments(path):
            experiments += results
        else:
            raise UserError(
                f"{path}: no run folder (no config.yaml, summary.json or bench in it), and no experiment;"
                " give the folder of `safer-steer run --out`"
            )
    folders = list(dict.fromkeys(folders))
    names = _names(folders) if len(folders) > 1 else [""]
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=False)], experiments


def _results_of(run: Path) -> list[Path]:
    """Where a run's results are. Those of answers that were kept without scores are in `judged_in`, a folder
    for each judge; beside them the run itself, if it made more than answers."""
    folders = sorted(
        path.parent for path in judged_in(run).glob("*/summary.json") if path.parent.name != "repeats"
    )
    summary = Summary.read(run / "summary.json")
    if summary.scored or not folders:
        return [run]
    return [run, *folders] if summary.capability or (run / "seeds").is_dir() else folders


def read_run(folder: Path, name: str = "") -> ShownRun:
    """Read a run folder. Raises `UserError` if a file in it is damaged; names the file."""
    config = _config(folder / "config.yaml")
    return ShownRun(
        folder=folder,
        name=name,
        title=str(config.get("name") or folder.resolve().name),
        config=config,
        summary=Summary.read(folder / "summary.json"),
        steps=list(read_rows(folder / "rl" / "metrics.jsonl")),
        check=read_check(folder),
        bench=read_bench(folder),
    )


def together(runs: Sequence[ShownRun]) -> Summary:
    """The summaries of all runs as one, with the models' names on the page."""
    sets: dict[str, dict[str, Answered]] = {}
    for run in runs:
        for name, by_model in run.summary.capability.items():
            sets.setdefault(name, {}).update({run.key(model): entry for model, entry in by_model.items()})
    return Summary(
        models={run.key(model): entry for run in runs for model, entry in run.summary.models.items()},
        capability=sets,
        adaptive={run.key(model): entries for run in runs for model, entries in run.summary.adaptive.items()},
    )


def models_of(runs: Sequence[ShownRun]) -> list[str]:
    """The models that have answered, by their names on the page."""
    return in_order(
        dict.fromkeys(run.key(model) for run in runs for file in run.bench.values() for model in file)
    )


def corrected_together(runs: Sequence[ShownRun]) -> Corrected:
    """The rates of all runs that are corrected for the judge's errors, by the models' names on the page."""
    return {run.key(model): rates for run in runs for model, rates in corrected_rates(run.check).items()}


def at(tree: Any, *keys: str) -> Any:
    """The value under `keys` in a config, or None if a key is missing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _config(path: Path) -> Row:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), BoundedLoader) if path.is_file() else {}
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"{path}: no valid YAML; copy the run's config back") from None
    return data if isinstance(data, dict) else {}


def _experiments(path: Path) -> list[Row]:
    """The results in a file of `safer-steer experiment`, or in all of a folder."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    contents = [read_json(file, "experiment") for file in files if file.suffix == ".json"]
    return [one for one in contents if {"arms", "differences", "seeds"} <= one.keys()]


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    length = 1
    while len({folder.parts[-length:] for folder in folders}) < len(folders):
        length += 1
    return ["/".join(folder.parts[-length:]) for folder in folders]
