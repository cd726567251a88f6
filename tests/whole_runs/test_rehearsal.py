"""The rehearsal at the paper's sizes runs, on little: every command, three of them killed on their way."""

import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT

COMMANDS = ["seeds", "assemble", "bootstrap", "sft", "rl", "health", "verify", "export"]


@pytest.mark.timeout(600)
def test_every_command_has_a_row_and_what_is_killed_goes_on(tmp_path: Path) -> None:
    options = ("--share", "0.001", "--latency", "0.05", "--sft-steps", "1", "--rl-steps", "1")
    command = [sys.executable, str(ROOT / "benchmarks" / "rehearsal.py"), *options, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    by_name = {name: cells for name, *cells in rows}
    assert {*COMMANDS, "bench, three models", "report, of the bench", "report, of the run"} <= {*by_name}
    for name in ("seeds", "bootstrap", "bench, three models"):
        calls, _, _, _, first, resumed, again = by_name[name]
        assert int(calls.replace(",", "")) > 40 and float(first) > 0 and float(again) > 0
        assert resumed == "–" or float(resumed) > 0, "it was over before it could be killed, or went on"
    assert float(by_name["run/rl"][1]) > 1, "MB"
