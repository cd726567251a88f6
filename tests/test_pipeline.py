"""The whole method in seconds of training: every artefact is there, and a run killed with -9 in every stage ends as one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from safer_steer.dialogue import read_dialogues, read_seeds
from safer_steer.manifest import Manifest, verify

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "student": {"model": "sandbox", "max_turn_tokens": 40, "max_length": 768, "dtype": "float32", "device": "cpu"},
    "seeds": {"sources": [{"limit": 8}], "max_turns": 3},
    "bootstrap": {"sft": {"learning_rate": 1e-4, "batch_size": 4, "micro_batch_size": 4, "max_steps": 3, "save_steps": 1}},
    "rl": {"group_size": 2, "prompts_per_step": 2, "micro_batch_size": 4, "steps": 3, "max_turns": 2, "max_completion_tokens": 256, "save_steps": 1},
    "bench": {"dialogues": 5, "resamples": 50},
}
STAGES = {"seeds": 0.2, "bootstrap": 0.3, "sft": 4.0, "rl": 4.0, "bench": 6.0}
"""Every stage, and within how many seconds of its beginning it is killed."""


def start(folder: Path) -> subprocess.Popen[str]:
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    command = [sys.executable, "-c", "from safer_steer.cli import main; main()", "run", str(folder / "tiny.yaml"), "--out", str(folder / "run")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})


def finish(folder: Path) -> tuple[str, str]:
    process = start(folder)
    out, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return out, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    out, said = finish(folder)
    assert "Over-refusal" in out
    assert f"report: {folder / 'run' / 'report.html'}" in out
    assert [line for line in said.splitlines() if ": done in" in line and line.split(":")[0] in STAGES]
    return folder / "run"


def ids(run: Path) -> dict[str, list[str]]:
    """The ids of all rows of a run, by file."""
    files = [*run.glob("seeds/*.jsonl"), *run.glob("bootstrap/*.jsonl"), *run.glob("rl/trajectories.jsonl"), *run.glob("bench/*/*.jsonl")]
    return {str(path.relative_to(run)): sorted(json.loads(line)["id"] for line in path.read_text().splitlines()) for path in files}


@pytest.mark.timeout(300)
def test_every_artefact_is_there(whole: Path) -> None:
    for kind in ("benign", "obfuscated", "red_team"):
        assert all((whole / image).is_file() for seed in read_seeds(whole / "seeds" / f"{kind}.jsonl") for image in seed.images)
    assert read_dialogues(whole / "bootstrap" / "kept.jsonl")
    assert all(dialogue.meta["reasons"] for dialogue in read_dialogues(whole / "bootstrap" / "rejected.jsonl"))
    for stage in ("sft", "rl"):
        assert (whole / stage / "model" / "model.safetensors").is_file()
    assert [json.loads(line)["step"] for line in (whole / "rl" / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert len(read_dialogues(whole / "rl" / "trajectories.jsonl")) == 3 * 2 * 2
    summary = json.loads((whole / "summary.json").read_text())
    assert list(summary["models"]) == ["base", "sft", "safer_steer"]
    for model in summary["models"].values():
        assert model["multi_turn"]["average"]["n"] == model["single_turn"]["average"]["n"] == 5
        assert model["multi_turn"]["safe_twins"]["n"] == 5
    assert list(Manifest(whole).stages) == sorted([*STAGES, "report"])
    assert Manifest(whole).stages["bench"]["calls"]["judge"]["calls"] > 0
    assert verify(whole) == []


@pytest.mark.timeout(600)
def test_a_run_killed_in_every_stage_ends_alike(whole: Path, tmp_path: Path) -> None:
    chance = random.Random(2)
    for stage, within in STAGES.items():
        before = Manifest(tmp_path / "run").stages
        process = start(tmp_path)
        assert process.stderr is not None
        for line in process.stderr:
            assert line.split(":")[0] not in before or "done already" in line, "finished work is not repeated"
            if line == f"{stage}: begins\n":
                break
        time.sleep(chance.uniform(0, within))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(tmp_path)
    assert ids(tmp_path / "run") == ids(whole)
    assert all(len(rows) == len(set(rows)) for rows in ids(whole).values())
    for name in ("seeds/red_team.jsonl", "bootstrap/kept.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    assert verify(tmp_path / "run") == []
