"""Stage III on a real vLLM server: RL of the shipped student with weight sync, killed and resumed once,
beside the same run in this process; and the bench of what it trained through that server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from places import ROOT
from safer_steer.config import SHIPPED, Student
from safer_steer.config.rl import Rollouts
from safer_steer.dialogue import Dialogue, read_dialogues
from safer_steer.endpoints.clients import close_all
from safer_steer.sandbox.world import devices, draw
from safer_steer.student.load import load_student
from safer_steer.student.policy import SampledStudent
from safer_steer.student.transcript import Transcript
from safer_steer.student.vllm_policy import VLLMPolicy, logprobs_at, on_servers, trainer_logits
from servers import VLLM, safer_steer

pytestmark = pytest.mark.timeout(900)

STEPS = 3
SETTINGS = {"max_turn_tokens": 40, "max_length": 512, "dtype": "float32", "device": "cpu"}
CONFIG = {
    "student": {**SETTINGS, "lora_rank": 4},
    "seeds": {"sources": [{"name": "sandbox", "limit": 8}], "min_turns": 2, "max_turns": 3},
    "rl": {
        "learning_rate": 0.01,
        "group_size": 4,
        "prompts_per_step": 4,
        "micro_batch_size": 16,
        "steps": STEPS,
        "max_turns": 3,
        "max_completion_tokens": 256,
        "save_steps": 1,
        "start_from": "base",
    },
    "bench": {"suites": ["sandbox"], "models": ["base", "safer_steer"], "dialogues": 5, "temperature": 0},
}


@pytest.fixture(scope="module")
def home(vllm: VLLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configs, `served.yaml` and `here.yaml`, and for each a run after Stage III. The served one was
    killed in its second step, after that step's first trajectories, which are in `journal`."""
    home = tmp_path_factory.mktemp("rollouts")
    served = {"rollouts": {"engine": "vllm", "base_url": vllm.url}}
    for name, more in (("here", {}), ("served", served)):
        config = CONFIG | {"rl": {**CONFIG["rl"], **more}}  # type: ignore[dict-item]
        (home / f"{name}.yaml").write_text(yaml.safe_dump(config))
    safer_steer("seeds", home / "here.yaml", "--out", home / "here")
    shutil.copytree(home / "here", home / "served")
    kill_in_second_step(home)
    for name in ("here", "served"):
        safer_steer("rl", home / f"{name}.yaml", "--out", home / name)
    return home


def kill_in_second_step(home: Path) -> None:
    command = [sys.executable, "-m", "safer_steer", "rl", home / "served.yaml", "--out", home / "served"]
    with (home / "killed.txt").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=ROOT, env=os.environ, start_new_session=True
        )
        journal = home / "served" / "rl" / "rollouts" / "00001-000.jsonl"
        while process.poll() is None and len(rows(journal)) < 3:
            time.sleep(0.002)
        assert process.poll() is None, (home / "killed.txt").read_text()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert rows(home / "served" / "rl" / "metrics.jsonl")[-1]["step"] == 1
    shutil.copy(journal, home / "journal")


def rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may grow, or not be there yet."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def test_at_every_step_the_servers_log_probabilities_are_the_trainers(home: Path) -> None:
    steps = rows(home / "served" / "rl" / "metrics.jsonl")
    for step in steps:
        print({key: step[key] for key in ("step", "return", "kl", "logprob_gap", "logprob_gap_max")})
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert all(step["logprob_gap_max"] < 1e-4 for step in steps)
    assert all(abs(step["importance_ratio"] - 1) < 1e-4 < step["importance_ess"] for step in steps)
    assert steps[-1]["kl"] > 1e-5, "the weights moved, so old ones would have shown"
    assert all(step["unscored"] == 0 for step in steps)


def test_the_curves_are_those_of_the_run_in_process(home: Path) -> None:
    """Other draws from the same distribution: in each step's mean return, within 4 standard errors."""
    mine, theirs = (returns_by_step(home / name / "rl" / "trajectories.jsonl") for name in ("here", "served"))
    assert mine.keys() == theirs.keys() == set(range(STEPS))
    for step in mine:
        one, other = mine[step], theirs[step]
        error = (statistics.variance(one) / len(one) + statistics.variance(other) / len(other)) ** 0.5
        print(f"step {step + 1}: {statistics.mean(one):.3f} here, {statistics.mean(other):.3f} served")
        assert len(one) == len(other) == 16
        assert abs(statistics.mean(one) - statistics.mean(other)) < 4 * error


def returns_by_step(path: Path) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for dialogue in read_dialogues(path):
        found.setdefault(int(dialogue.id[:5]), []).append(dialogue.meta["return"])
    return found


def test_after_a_kill_nothing_is_sampled_again(home: Path) -> None:
    kept = {row["id"]: Dialogue.model_validate(row["dialogue"]) for row in rows(home / "journal")}
    trained = {d.id: d for d in read_dialogues(home / "served" / "rl" / "trajectories.jsonl")}
    assert len(kept) >= 3
    assert all(trained[name] == dialogue for name, dialogue in kept.items())


def test_the_server_offers_the_last_steps_adapter_alone(home: Path, vllm: VLLM) -> None:
    models = json.loads(vllm.get("/v1/models"))["data"]
    adapters = [model["id"] for model in models if model["parent"]]
    assert len(adapters) == 1 and "-00002-" in adapters[0]


def test_the_bench_through_the_server_is_the_bench_in_process(home: Path, vllm: VLLM) -> None:
    shutil.copytree(home / "served", home / "served_here")
    before = vllm.answered
    safer_steer("bench", home / "served.yaml", "--out", home / "served")
    answered = vllm.answered - before
    safer_steer("bench", home / "here.yaml", "--out", home / "served_here")
    said = []
    for folder in (home / "served", home / "served_here"):
        found = {}
        for model in ("base", "safer_steer"):
            for journal in sorted((folder / "bench" / model).glob("*.jsonl")):
                for dialogue in read_dialogues(journal):
                    found[model, journal.name, dialogue.id] = [turn.assistant for turn in dialogue.turns]
        said.append(found)
    assert said[0] == said[1]
    summaries = [json.loads((home / name / "summary.json").read_text()) for name in ("served", "served_here")]
    assert summaries[0]["models"] == summaries[1]["models"]
    answers = sum(map(len, said[0].values()))
    print(f"{answers} answers through the server, none differs")
    assert answered >= answers


def test_attacker_and_student_learn_with_both_adapters_on_one_server(home: Path, vllm: VLLM) -> None:
    run, config = home / "cotrain", home / "cotrain.yaml"
    rl = {"algorithm": "cotrain", "cotrain": {"every": 1, "rules": False, "latest": 1.0}, "steps": 2}
    rl |= {"rollouts": {"engine": "vllm", "base_url": vllm.url}}
    config.write_text(
        yaml.safe_dump(CONFIG | {"student": {**SETTINGS, "lora_rank": 16}, "rl": {**CONFIG["rl"], **rl}})  # type: ignore[dict-item]
    )
    safer_steer("seeds", config, "--out", run)
    before = vllm.answered
    safer_steer("rl", config, "--out", run)
    said = 0
    for side, met in (("student", ["1", "2"]), ("attacker", ["0", "1"])):
        folder = run / "rl" / ("" if side == "student" else side)
        steps = rows(folder / "metrics.jsonl")
        print([{key: step[key] for key in ("step", "opponent", "logprob_gap_max")} for step in steps])
        assert [step["opponent"] for step in steps] == met
        assert all(step["logprob_gap_max"] < 1e-4 for step in steps), "each side's own adapter has sampled"
        said += sum(2 * len(played.turns) for played in read_dialogues(folder / "trajectories.jsonl"))
    assert vllm.answered - before >= said, "both sides speak through the server"
    adapters = [model["id"] for model in json.loads(vllm.get("/v1/models"))["data"] if model["parent"]]
    assert len({name.split("-")[1] for name in adapters}) >= 3, "each side's in training, and the opponents"


async def test_pictures_in_several_turns_stand_where_their_tokens_are(vllm: VLLM) -> None:
    settings = Student.model_validate(SETTINGS)
    loaded = load_student(settings)
    rollouts = Rollouts(engine="vllm", base_url=[vllm.url])
    student = SampledStudent(loaded.model, loaded.renderer, settings, 0.7, rollouts, str(SHIPPED))
    policy = await in_thread(student)
    talk = Transcript(loaded.renderer)
    try:
        for turn in range(3):
            talk.add_user("what is it?", [draw(devices()[turn], turn == 1, turn)] if turn < 2 else [])
            said = await policy.reply(talk, f"pictures {turn}")
            begin = len(talk.ids)
            talk.add_assistant(said.token_ids, said.logprobs)
            logits = trainer_logits(loaded.model, talk)
            end = begin + len(said.token_ids)
            assert said.logprobs == pytest.approx(logprobs_at(logits, talk.ids, begin, end, 0.7), abs=1e-4)
        ours = torch.tensor(logprobs_at(logits, talk.ids, 1, len(talk.ids), 1.0))
        theirs = torch.tensor((await policy.score(talk))[1:])
    finally:
        await close_all()
    assert (ours - theirs).abs().max() < 1e-4


async def in_thread(student: SampledStudent) -> VLLMPolicy:
    """An engine is made outside any event loop."""
    return await asyncio.to_thread(on_servers, student)
