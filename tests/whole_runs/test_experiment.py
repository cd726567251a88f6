"""A small experiment from its file to its table: killed once, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from safer_steer.manifest import Manifest, verify

REPOSITORY = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "name": "small",
    "config": str(REPOSITORY / "configs" / "sandbox.yaml"),
    "seeds": [0],
    "set": {
        "limit": 4,
        "rl.save_steps": 1,
        "bench.adaptive": {"attackers": ["sandbox-a", "sandbox-b"], "turns": 3, "tries": 1},
    },
    "arms": {
        "SFT": {"model": "sft"},
        "full": {},
        "mean": {"set": {"rl.tcsr": "mean"}},
        "A and B": {"set": {"roles.tutor": {"model": "sandbox-ab"}}},
    },
    "compare": [["full", "SFT"], ["full", "mean"], ["A and B", "full"]],
    "measures": ["multi-turn Safe", "Help on twins", "breach@1 by B", "generalisation gap B - A"],
    "survival": True,
}


@pytest.mark.timeout(1500)
def test_an_experiment_killed_and_gone_on_with(tmp_path: Path) -> None:
    path, out = tmp_path / "small.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(SMALL))
    command = [sys.executable, "-m", "safer_steer", "experiment", str(path), "--out", str(out)]
    with (tmp_path / "first.log").open("wb") as log:
        first = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    until = time.monotonic() + 500
    while first.poll() is None and time.monotonic() < until:
        if list(out.glob("trained/*/rl/trajectories.jsonl")):
            break
        time.sleep(0.2)
    assert first.poll() is None, (tmp_path / "first.log").read_text()
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    (trunk,) = out.glob("shared/*/")
    sft = Manifest(trunk).stages["sft"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "8 of 8 over" in done.stderr and "up to SFT, seed 0: begun" not in done.stderr
    assert Manifest(trunk).stages["sft"] == sft, "trained once"
    runs = sorted(out.glob("measured/*/"))
    assert len(runs) == 4
    for run in runs:
        assert Manifest(run).stages["sft"]["files"] == sft["files"]
        assert verify(run) == []
    found = json.loads((out / "small.json").read_text())
    assert set(found["arms"]) == set(SMALL["arms"]) and found["lost"]["full"]["dialogues"] > 0
    for measure in SMALL["measures"]:
        assert all(arm[measure]["value"] is not None for arm in found["arms"].values())
    assert (out / "small.md").read_text() in done.stdout

    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0 and "begun" not in again.stderr
    assert again.stdout == done.stdout
