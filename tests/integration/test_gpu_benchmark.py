"""The parts of benchmarks/gpu.py that ask a vLLM server start one, here on the CPU with a tiny student."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT
from servers import SETTINGS, VLLM_PYTHON

pytestmark = pytest.mark.timeout(900)


def test_rollouts_a_step_and_new_adapters_on_a_server_of_the_benchmarks_own(tmp_path: Path) -> None:
    out = tmp_path / "tiny.json"
    parts = ("rollouts", "step", "sync", "--vllm", str(VLLM_PYTHON))
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *parts, "--tiny"]
    paths = ("--out", str(out), "--work", str(tmp_path))
    done = subprocess.run([*command, *paths], capture_output=True, text=True, env=os.environ | SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())["rows"]
    assert [row["part"] for row in found] == ["rollouts", "rollouts", "step", "sync"]
    *_, step, sync = found
    assert all(row["engine"] == "vllm" for row in found[:-1])
    assert 0 < step["sync_s"] < step["step_s"]
    assert sync["weights"] == "LoRA" and sync["seconds"] > 0
    for row in (step, sync):
        assert 0 < row["gap"] <= row["gap_max"] < 1e-4
    assert (
        "sync: all weights are left out: rl.rollouts.engine: vllm is sent all weights over NCCL"
        in done.stdout
    )
