"""The whole method in seconds of training, every role behind an endpoint: what a real run is, but for the
models."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from meta_keys import unregistered
from safer_steer.dialogue import read_dialogues, read_seeds
from safer_steer.files.manifest import Manifest, verify
from safer_steer.files.store import sha256_of
from student_parts import TINY

COMMAND = [sys.executable, "-m", "safer_steer"]
STAGES = ["seeds", "assemble", "bootstrap", "sft", "rl", "bench", "report"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The sandbox's agents behind HTTP; the base URL."""
    server = subprocess.Popen(
        [*COMMAND, "sandbox", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert server.stdout is not None
    yield server.stdout.readline().split()[1]
    server.terminate()
    server.communicate(timeout=20)


def test_the_whole_method_over_http(endpoint: str, tmp_path: Path) -> None:
    roles = {
        role: {"model": "served", "base_url": endpoint}
        for role in ("generator", "attack_judge", "red", "blue", "evaluator", "tutor", "judge")
    }
    config = {**TINY, "roles": {**roles, "target": {"model": "student"}}}
    config |= {
        "seeds": {"sources": [{"limit": 8}], "max_turns": 3},
        "bench": {"dialogues": 5, "resamples": 50, "capability": ["sandbox"], "questions": 6},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    done = subprocess.run(
        [*COMMAND, "run", str(tmp_path / "tiny.yaml"), "--out", str(run)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines() if ": done in" in line] == STAGES
    assert "Unclosed" not in done.stderr, "every stage closes the connections it opened"
    assert "Over-refusal" in done.stdout
    assert done.stdout.splitlines()[-1] == f"report: {run / 'report.html'}"
    assert not list(unregistered(run)), "every fact in its rows is in the register of `meta`"

    for kind in ("benign", "obfuscated", "red_team"):
        assert all(
            (run / image).is_file()
            for seed in read_seeds(run / "seeds" / f"{kind}.jsonl")
            for image in seed.images
        )
    assert read_dialogues(run / "bootstrap" / "kept.jsonl")
    assert all(dialogue.meta["reasons"] for dialogue in read_dialogues(run / "bootstrap" / "rejected.jsonl"))
    rl = config["rl"]
    assert (
        len(read_dialogues(run / "rl" / "trajectories.jsonl"))
        == rl["steps"] * rl["prompts_per_step"] * rl["group_size"]
    )
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["models"]) == ["base", "sft", "safer_steer"]
    for model in summary["models"].values():
        assert (
            model["multi_turn"]["average"]["n"]
            == model["single_turn"]["average"]["n"]
            == model["multi_turn"]["safe_twins"]["n"]
            == 5
        )
        assert model["multi_turn"]["average"]["unscored"] == model["multi_turn"]["average"]["failed"] == 0
    kept = summary["capability"]["sandbox"]
    assert {model: (entry["n"], entry["failed"]) for model, entry in kept.items()} == dict.fromkeys(
        summary["models"], (6, 0)
    )
    assert kept["base"]["minus_base"] is None and kept["sft"]["minus_base"]["n"] == 6
    assert "Capability" in done.stdout and "minus" in done.stdout, "the table wraps its labels"
    assert len(read_dialogues(run / "capability" / "sandbox" / "answers" / "safer_steer.jsonl")) == 6
    manifest = Manifest(run)
    assert set(manifest.stages) == set(STAGES)
    assert "capability/sandbox/questions.jsonl" in manifest.stages["bench"]["files"]
    assert {role for stage in STAGES for role in manifest.stages[stage]["calls"]} == set(roles)
    assert not [name for name in manifest.stages["sft"]["files"] if "checkpoint" in name]
    assert verify(run) == []

    # Scored again for free: counted again without a key, and judged anew by the sandbox's own judge.
    answers = tmp_path / "answers"
    for arguments in (["export", run, "--answers", "--to", answers], ["verify", answers]):
        again = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
    assert "every number in summary.json follows" in again.stdout
    assert endpoint not in (answers / "config.yaml").read_text() and not (answers / "rl").exists()
    judging = [*COMMAND, "bench", "--judge-only", answers, "--judge-model", "sandbox"]
    subprocess.run(map(str, judging), capture_output=True, check=True)
    judged = json.loads((tmp_path / "answers-judged" / "sandbox" / "summary.json").read_text())
    assert judged["models"] == summary["models"]
    number = answers / "summary.json"
    number.write_text(number.read_text().replace('"n": 5', '"n": 6', 1))
    manifest = json.loads((answers / "manifest.json").read_text())
    facts = {"bytes": number.stat().st_size, "sha256": sha256_of(number)}
    manifest["stages"]["answers"]["files"]["summary.json"] = facts
    (answers / "manifest.json").write_text(json.dumps(manifest))
    differing = subprocess.run([*COMMAND, "verify", str(answers)], capture_output=True, text=True)
    assert differing.returncode == 1 and "(6 there, 5 here)" in differing.stdout
