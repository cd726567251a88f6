"""Stage III pays for nothing twice: a killed step is trained from its journal, neither sampled nor scored
again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from places import SUPPORT
from rl_run import STEPS
from safer_steer.config import SHIPPED
from safer_steer.dialogue import Dialogue, Kind, StopReason, Turn
from safer_steer.reinforce.trajectory import Trajectory
from student_parts import write_seeds


def start(folder: Path, calls: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SUPPORT / "rl_run.py"), str(folder), str(calls)]
    return subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def lines(path: Path) -> list[str]:
    """Its whole lines: a last one may be half-written, in a process that is at work."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def new_run(folder: Path) -> Path:
    write_seeds(folder, 6)
    shutil.copytree(SHIPPED, folder / "sft" / "model")
    return folder


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run nobody disturbed, and its tutor's calls."""
    home = tmp_path_factory.mktemp("straight")
    process = start(new_run(home / "run"), home / "calls")
    output = process.communicate()[0].decode()
    assert process.returncode == 0, output
    return home / "run", lines(home / "calls")


def test_killed_between_rollouts_and_checkpoint_a_step_is_neither_sampled_nor_scored_again(
    straight, tmp_path
):
    wanted, all_calls = straight
    run, calls = new_run(tmp_path / "run"), tmp_path / "calls"
    last_step = run / "rl" / "rollouts" / f"{STEPS - 1:05d}-000.jsonl"
    process = start(run, calls)
    while process.poll() is None and len(lines(last_step)) < 6:
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()[0].decode()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not list((run / "rl").glob("checkpoint-*")), "killed before the first checkpoint"
    assert sorted(lines(calls)) == sorted(all_calls)

    process = start(run, calls)
    output = process.communicate()[0].decode()
    assert process.returncode == 0, output
    assert len(lines(calls)) == len(all_calls), "the tutor was asked again"
    assert lines(run / "rl" / "trajectories.jsonl") == lines(wanted / "rl" / "trajectories.jsonl")
    ours, theirs = (load_file(folder / "rl" / "model" / "model.safetensors") for folder in (run, wanted))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


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
