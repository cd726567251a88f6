"""Stage III pays for nothing twice, in whatever pass over its seeds it is ended: a killed step is trained
from its journal, neither sampled nor scored again, and the steps after it take the seeds that they would have
taken."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from display import Quiet
from forked import Forked
from rl_run import STEPS
from safer_steer.config import SHIPPED
from safer_steer.config.file import dump_config
from safer_steer.dialogue import Dialogue, Kind, StopReason, Turn
from safer_steer.endpoints.cache import Cache
from safer_steer.errors import SpendingLimit
from safer_steer.files.manifest import Manifest
from safer_steer.files.store import write_atomic
from safer_steer.pipeline import run_stage
from safer_steer.stages import STAGES
from safer_steer.training.trajectory import Trajectory
from student_parts import drawn_for_rl, tiny_config, write_seeds


def start(folder: Path, calls: Path, *changes: str) -> Forked:
    return Forked(folder.with_suffix(".log"), "rl_run", folder, calls, *changes)


def lines(path: Path) -> list[str]:
    """Its whole lines: a last one may be half-written, in a process that is at work."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def new_run(folder: Path) -> Path:
    write_seeds(folder, 6)
    shutil.copytree(SHIPPED, folder / "sft" / "model")
    return folder


def same_weights(run: Path, other: Path) -> bool:
    ours, theirs = (load_file(folder / "rl" / "model" / "model.safetensors") for folder in (run, other))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run nobody disturbed, and its tutor's calls."""
    home = tmp_path_factory.mktemp("straight")
    start(new_run(home / "run"), home / "calls").wait()
    return home / "run", lines(home / "calls")


@pytest.mark.slow
def test_killed_between_rollouts_and_checkpoint_a_step_is_neither_sampled_nor_scored_again(
    straight, tmp_path
):
    wanted, all_calls = straight
    run, calls = new_run(tmp_path / "run"), tmp_path / "calls"
    last_step = run / "rl" / "rollouts" / f"{STEPS - 1:05d}-000.jsonl"
    assert start(run, calls).kill_when(lambda: len(lines(last_step)) >= 6)
    assert not list((run / "rl").glob("checkpoint-*")), "killed before the first checkpoint"
    assert sorted(lines(calls)) == sorted(all_calls)

    start(run, calls).wait()
    assert len(lines(calls)) == len(all_calls), "the tutor was asked again"
    assert lines(run / "rl" / "trajectories.jsonl") == lines(wanted / "rl" / "trajectories.jsonl")
    assert same_weights(run, wanted)


def seeds_by_step(run: Path) -> list[tuple[str, ...]]:
    """The seeds that each step took, in order."""
    taken: dict[str, dict[str, None]] = {}
    for line in lines(run / "rl" / "trajectories.jsonl"):
        row = json.loads(line)
        taken.setdefault(row["id"][:5], {})[row["meta"]["seed"]] = None
    return [tuple(seeds) for _, seeds in sorted(taken.items())]


@pytest.mark.slow
def test_killed_in_its_second_and_third_pass_a_run_takes_the_same_seeds_and_ends_the_same(tmp_path):
    """Two steps of two seeds are a pass over five; one seed is left over. The tutor has a memory."""
    passes = "steps=6", "seeds=5", "save_steps=1", "tutor_memory=true"
    wanted, run = new_run(tmp_path / "straight"), new_run(tmp_path / "run")
    start(wanted, tmp_path / "all", *passes).wait()
    assert len(set(seeds_by_step(wanted))) > 2, "each pass shuffles anew"
    for step in (2, 5):
        journal = run / "rl" / "rollouts" / f"{step:05d}-000.jsonl"
        killed = start(run, tmp_path / "calls", *passes)
        assert killed.kill_when(lambda of=journal: len(lines(of)) >= 6)
    start(run, tmp_path / "calls", *passes).wait()
    tries = [json.loads(line)["approaches"] for line in lines(wanted / "rl" / "metrics.jsonl")]
    assert len([step for step in tries if step]) > 3, "there was something to remember"
    assert [json.loads(line)["approaches"] for line in lines(run / "rl" / "metrics.jsonl")] == tries
    assert seeds_by_step(run) == seeds_by_step(wanted)
    assert sorted(lines(tmp_path / "calls")) == sorted(lines(tmp_path / "all")), "something was paid twice"
    assert lines(run / "rl" / "trajectories.jsonl") == lines(wanted / "rl" / "trajectories.jsonl")
    assert same_weights(run, wanted)


def paid(folder: Path, url: str, algorithm: str, limit: float | None = None) -> Path:
    """Stage III with a tutor that is paid, in the folder of a run that is ready for it."""
    rl = {"steps": 4, "seeds": 5, "save_steps": 1, "algorithm": algorithm, "temperature": 1.5}
    rl["tutor_memory"] = True
    tutor = {"model": "sandbox", "base_url": url, "price_in": 1e4, "price_out": 1e4}
    config = tiny_config(rl=tiny_config().rl.model_dump() | rl, roles={"tutor": tutor}, spending_limit=limit)
    if not folder.exists():
        drawn_for_rl(config, new_run(folder))
        write_atomic(folder / "config.yaml", dump_config(config))
        for stage in ("seeds", "assemble", "bootstrap", "sft"):
            Manifest(folder).record(stage, STAGES[stage].writes, (), {})
    run_stage("rl", config, folder, Quiet())
    return folder


def spent(folder: Path) -> tuple[int, float]:
    """The calls that the tutor answered, and what they cost."""
    cache = Cache(folder / "cache.sqlite")
    [(_, calls, _, _, money)] = cache.spent()
    cache.close()
    return calls, money


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "work", "in_pass", "limits"),
    [("grpo", "metrics.jsonl", 2, (1.5, 3.5)), ("dpo", "candidates.jsonl", 5, (3, 7))],
)
def test_stopped_by_the_spending_limit_in_each_pass_a_run_pays_for_nothing_twice(
    tmp_path, served_by_core, algorithm, work, in_pass, limits
):
    """`in_pass`: rows of a pass in the file `work`; `limits`, in the price of a row."""
    wanted = paid(tmp_path / "straight", served_by_core, algorithm)
    calls, money = spent(wanted)
    rows = len(lines(wanted / "rl" / work))
    for number, limit in enumerate(limits):
        with pytest.raises(SpendingLimit):
            paid(tmp_path / "run", served_by_core, algorithm, money * limit / rows)
        done = len(lines(tmp_path / "run" / "rl" / work))
        assert number * in_pass <= done < (number + 1) * in_pass, f"stopped in pass {number + 1}"
    run = paid(tmp_path / "run", served_by_core, algorithm)
    assert spent(run) == (calls, pytest.approx(money))
    for name in ("trajectories.jsonl",) if algorithm == "grpo" else ("candidates.jsonl", "preferences.json"):
        assert sorted(lines(run / "rl" / name)) == sorted(lines(wanted / "rl" / name))
    assert same_weights(run, wanted)


def test_other_seeds_under_a_journal_are_refused_in_one_line_that_deletes_nothing(tmp_path):
    run = new_run(tmp_path / "run")
    journal = run / "rl" / "rollouts" / "00000-000.jsonl"
    assert start(run, tmp_path / "calls").kill_when(lambda: len(lines(journal)) >= 2)
    kept = journal.read_bytes()
    for pool in (run / "seeds").glob("*.jsonl"):
        pool.write_text(pool.read_text().replace('"id":"', '"id":"other-'))
    refused = start(run, tmp_path / "calls")
    refused.process.join()
    said = (
        r"UserError: \S+00000-000.jsonl: 00000-000\d was played from the seed \S+, and this run draws other-"
    )
    todo = r"\S+: splits/rl.jsonl has changed; put it back to go on, or use a new folder\n"
    assert re.search(said + todo, refused.printed)
    assert journal.read_bytes() == kept


def test_a_finished_run_keeps_no_journals(straight):
    assert not (straight[0] / "rl" / "rollouts").exists()


@pytest.mark.parametrize(
    ("value", "stop", "final"),
    [
        (1.2, StopReason.COMPLETED, True),
        (None, StopReason.CONTEXT_FULL, True),
        (None, StopReason.UNSCORED, False),
        (None, StopReason.ASSISTANT_FAILED, False),
    ],
)
def test_a_trajectory_survives_the_journal_and_only_final_ones_are_kept(value, stop, final):
    dialogue = Dialogue(id="a", kind=Kind.BENIGN, turns=[Turn(user="u", assistant="é")], stop=stop)
    there = Trajectory(
        dialogue, value, [1, 2], [3, 4, 5, 6], [-0.1, 0.0, -1e-30, -7.25], [1, 0, 1, 1], [0, 3]
    )
    assert Trajectory.from_row(json.loads(json.dumps(there.to_row()))) == there
    assert there.final is final
