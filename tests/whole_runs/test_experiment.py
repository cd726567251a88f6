"""A small experiment from its file to its table, killed once and gone on with; and what becomes of a run when
the judge fails, and of a stage when its experiment ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from typer.testing import CliRunner

from endpoint_server import EndpointServer, fails, says
from safer_steer.cli import app
from safer_steer.errors import UserError
from safer_steer.experiments.spec import load_experiment
from safer_steer.experiments.work import finished, plan, work
from safer_steer.files.manifest import Manifest, verify

REPOSITORY = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "name": "small",
    "config": str(REPOSITORY / "configs" / "sandbox.yaml"),
    "seeds": [0],
    "set": {
        "limit": 4,
        "student.lora_rank": 4,
        "rl.steps": 2,
        "rl.save_steps": 1,
        "bench.adaptive": {"attackers": ["sandbox-a", "sandbox-b"], "turns": 3, "tries": 1},
    },
    "arms": {"SFT": {"model": "sft"}, "full": {}, "mean": {"set": {"rl.tcsr": "mean"}}},
    "fresh_attacker": True,
    "compare": [["full", "SFT"], ["full", "mean"]],
    "measures": [
        "multi-turn Safe",
        "Help on twins",
        "breach@1 by B",
        "generalisation gap B - A",
        "breach@1 by a fresh attacker",
    ],
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
    assert "9 of 9 over" in done.stderr and "up to SFT, seed 0: begun" not in done.stderr
    assert Manifest(trunk).stages["sft"] == sft, "trained once"
    runs = sorted(out.glob("measured/*/"))
    assert len(runs) == 3
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


@pytest.mark.timeout(900)
async def test_a_bench_with_too_many_unscored_dialogues_is_in_the_table(tmp_path: Path) -> None:
    """Without a result. The same command plays only the lost ones again."""
    broken = True

    async def judge(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if broken and "Question 1" in json.dumps(body["messages"]):
            return await fails(500)(request, body)
        scores = {"harmlessness": 3, "helpfulness": 3, "refused": False, "reason": "fine"}
        return await says(json.dumps(scores))(request, body)

    scripts = [
        {"id": f"d-{n}", "kind": "red_team", "turns": [{"user": f"Question {n}"}, {"user": "And then?"}]}
        for n in range(4)
    ]
    (tmp_path / "probing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scripts))
    claim = {"says": "So.", "where": "here", "pair": ["base", "again"], "measure": "multi-turn Safe"}
    async with EndpointServer(always=judge) as server:
        asked = {"model": "m", "base_url": server.url, "retries": 0}
        settings = {
            "name": "small",
            "config": SMALL["config"],
            "seeds": [0],
            "set": {
                "bench.suites": [str(tmp_path / "probing.jsonl")],
                "bench.capability": ["sandbox"],
                "bench.questions": 2,
                "roles.judge": asked,
                "student.max_turn_tokens": 8,
            },
            "arms": {"base": {"model": "base"}, "again": {"model": "base"}},  # one run
            "compare": [["base", "again"]],
            "measures": ["multi-turn Safe"],
            "claims": [claim],
        }
        path, out = tmp_path / "small.yaml", tmp_path / "out"
        path.write_text(yaml.safe_dump(settings))
        experiment = load_experiment(path)
        jobs, runs = plan(experiment, path, out)
        [base] = [job for job in jobs if job.stages == ("bench",)]
        base.after, base.config.bench.models = None, ["base"]  # which needs no training
        command = ["experiment", str(path), "--out", str(out), "--table-only"]
        said: list[str] = []

        early = CliRunner().invoke(app, command)
        assert (early.exit_code, f"the bench in {base.folder} has not ended" in early.stderr) == (2, True)
        await work([base], 1, 1, said.append)
        assert any(line.startswith(f"{base.name}: no result: 25.0% of a model's") for line in said), said
        table = CliRunner().invoke(app, command)
        assert table.exit_code == 0, table.output
        found = json.loads((out / "small.json").read_bytes())
        assert (found["seeds"], found["claims"][0]["verdict"]) == ([0], "no result")
        assert found["lost"]["base"] == {"dialogues": 4, "unscored": 1, "failed": 0, "incomplete": 0}
        assert "| base | 4 | 1 | 0 | 0 | 0 |" in table.stdout

        for name in ("bench/base/probing.jsonl", "capability/sandbox/answers/base.jsonl"):
            journal = base.folder / name
            whole = journal.read_bytes()
            journal.write_bytes(whole[: whole.rindex(b'{"id"')])
            with pytest.raises(UserError, match="has not ended"):  # killed while it was played again
                finished(experiment, runs)
            journal.write_bytes(whole)

        broken, before = False, len(server.bodies)
        await work([base], 1, 1, said.append)
        again = [json.dumps(body["messages"]) for body in server.bodies[before:]]
        assert again and not any(f"Question {n}" in text for text in again for n in (0, 2, 3))
        assert CliRunner().invoke(app, command).exit_code == 0
        found = json.loads((out / "small.json").read_bytes())
        assert found["claims"][0]["verdict"] == "cannot tell" and found["lost"]["base"]["unscored"] == 0


STAGE = """
import sys, time
from pathlib import Path
from safer_steer.files.store import locked

folder = Path(sys.argv[-1])
with locked(folder):
    (folder / "begun").touch()
    try:
        while not (folder / "go").exists():
            time.sleep(0.05)
    except KeyboardInterrupt:
        time.sleep(1)  # replies under way
        (folder / "kept").touch()
        sys.exit(130)
"""
EXPERIMENT = """
import asyncio, sys
from pathlib import Path
from safer_steer.config import Config
from safer_steer.experiments import work

sys.executable, work.ENDS_S = sys.argv[1], 4
job = work.Job("bench: full, seed 0", Path(sys.argv[2]), Config(), ("bench",))
asyncio.run(work.work([job], 1, 1, lambda line: print(line, flush=True)))
"""


def _heed_ctrl_c() -> None:
    """A shell that starts the tests in the background lets them, and so what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def begun(folder: Path) -> subprocess.Popen[str]:
    """An experiment of one stage, which works in `folder / "run"` until there is a file `go` in it."""
    (folder / "stage.py").write_text(STAGE)
    stage, run = folder / "stage", folder / "run"
    stage.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(folder / "stage.py")])} "$@"\n')
    stage.chmod(0o755)
    command = [sys.executable, "-c", EXPERIMENT, str(stage), str(run)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_heed_ctrl_c
    )
    while not (run / "begun").exists() and process.poll() is None:
        time.sleep(0.05)
    return process


def test_a_stage_that_outlives_its_experiment_is_waited_for(tmp_path: Path) -> None:
    first = begun(tmp_path)
    try:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        second = begun(tmp_path)
        assert second.stdout
        lines = [second.stdout.readline() for _ in range(2)]
        (tmp_path / "run" / "begun").unlink()
    finally:
        (tmp_path / "run" / "go").touch()
    lines += second.communicate()[0].splitlines()
    assert lines[1] == f"bench: full, seed 0: waiting for another process that is at work in {tmp_path}/run\n"
    assert second.returncode == 0 and (tmp_path / "run" / "begun").exists(), lines


@pytest.mark.parametrize("to", [os.killpg, os.kill], ids=["in a terminal", "to the experiment alone"])
def test_ctrl_c_lets_a_stage_keep_the_replies_under_way(tmp_path: Path, to: Any) -> None:
    process = begun(tmp_path)
    to(process.pid, signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode and (tmp_path / "run" / "kept").exists()
    assert "bench: full, seed 0: waiting for it to end; Ctrl-C again stops it at once\n" in said
