"""A whole run, killed with -9 in every stage and in the middle of checkpoints: it goes on, repeats nothing
finished, and ends with the same ids."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from forked import Forked
from safer_steer.student.training import WHOLE
from student_parts import TINY

CONFIG = {
    **TINY,
    "seeds": {"sources": [{"name": "sandbox", "limit": 12}], "min_turns": 2, "max_turns": 3},
    "bench": {"dialogues": 3, "resamples": 20},
}


def unfinished_checkpoint(stage: str) -> Callable[[Path], bool]:
    """A checkpoint is being written."""
    return lambda run: any(
        path.is_dir() and not (path / WHOLE).exists() for path in (run / stage).glob("checkpoint-*")
    )


def lines_in(pattern: str, least: int) -> Callable[[Path], bool]:
    """So much work is journalled."""
    return lambda run: sum(path.read_bytes().count(b"\n") for path in run.glob(pattern)) >= least


KILLS = {
    "seeds": lines_in("seeds/journal/*.jsonl", 4),
    "bootstrap": lines_in("bootstrap/journal.jsonl", 5),
    "sft checkpoint": unfinished_checkpoint("sft"),
    "rl rollout": lines_in("rl/trajectories.jsonl", 1),
    "rl checkpoint": unfinished_checkpoint("rl"),
    "bench": lines_in("bench/sft/*.jsonl", 3),
}
JOURNALS = ("seeds/journal/*.jsonl", "bootstrap/journal.jsonl", "bench/*/*.jsonl")


def start(config: Path, folder: Path) -> Forked:
    return Forked(folder.with_suffix(".log"), "safer_steer", "run", config, "--out", folder)


def whole_lines(folder: Path) -> dict[str, list[bytes]]:
    """Everything journalled so far, but a torn last line."""
    found = {}
    for pattern in JOURNALS:
        for path in folder.glob(pattern):
            found[str(path.relative_to(folder))] = [
                line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")
            ]
    return found


def ids(folder: Path) -> dict[str, list[str]]:
    names = (
        "seeds/*.jsonl",
        "bootstrap/kept.jsonl",
        "bootstrap/rejected.jsonl",
        "rl/trajectories.jsonl",
        "bench/*/*.jsonl",
    )
    paths = sorted(path for name in names for path in folder.glob(name))
    return {
        str(p.relative_to(folder)): sorted(json.loads(line)["id"] for line in p.read_text().splitlines())
        for p in paths
    }


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run nobody disturbed, its config, and how long it took."""
    home = tmp_path_factory.mktemp("straight")
    config = home / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    began = time.monotonic()
    start(config, home / "run").wait()
    return config, home / "run", time.monotonic() - began


@pytest.mark.timeout(900)
def test_killed_in_every_stage_and_inside_checkpoints(straight, tmp_path):
    config, wanted, _ = straight
    folder, kept, hit = tmp_path / "run", {}, []
    for name, due in KILLS.items():
        if start(config, folder).kill_when(partial(due, folder)):
            hit.append(name)
        now = whole_lines(folder)
        for journal, lines in kept.items():
            assert now[journal][: len(lines)] == lines, f"{journal}: finished work was done again"
        kept = now
    assert hit == list(KILLS), "every kill must have struck"
    start(config, folder).wait()
    assert ids(folder) == ids(wanted)
    for pool in (wanted / "seeds").glob("*.jsonl"):
        assert (folder / "seeds" / pool.name).read_bytes() == pool.read_bytes()
    assert (folder / "bootstrap" / "kept.jsonl").read_bytes() == (
        wanted / "bootstrap" / "kept.jsonl"
    ).read_bytes()
    assert (folder / "report.html").exists()
    assert json.loads((folder / "summary.json").read_text())["models"].keys() == {
        "base",
        "sft",
        "safer_steer",
    }


def test_killed_at_random_moments(straight, tmp_path):
    config, wanted, seconds = straight
    rng = random.Random(7)
    for _ in range(2):
        moment = time.monotonic() + rng.uniform(0.3, 0.9) * seconds
        start(config, tmp_path / "run").kill_when(lambda moment=moment: time.monotonic() > moment)
    start(config, tmp_path / "run").wait()
    assert ids(tmp_path / "run") == ids(wanted)


def test_a_finished_run_does_nothing_again(straight):
    config, folder, _ = straight
    rewritten = ("config.yaml", "manifest.json", "report.html")
    before = {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name not in rewritten
    }
    start(config, folder).wait()
    assert {path: path.stat().st_mtime_ns for path in before} == before
