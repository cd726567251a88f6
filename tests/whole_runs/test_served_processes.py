"""RL in two processes with its rollouts on one server: the first process sends each step's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from display import Quiet
from launch import done
from safer_steer.config import SHIPPED, Config, Student
from safer_steer.pipeline import run_stage
from safer_steer.student.load import load_student
from student_parts import TINY
from vllm_double import VLLMDouble


def test_each_steps_adapter_is_sent_once_and_both_processes_sample_with_it(tmp_path: Path) -> None:
    loaded = load_student(Student(dtype="float32", device="cpu"))
    with VLLMDouble(loaded, str(SHIPPED)) as server:
        rollouts = {"engine": "vllm", "base_url": server.url}
        config = {
            **TINY,
            "student": TINY["student"] | {"lora_rank": 4},
            "seeds": {"sources": [{"name": "sandbox", "limit": 12}], "min_turns": 2, "max_turns": 3},
            "rl": TINY["rl"] | {"micro_batch_size": 3, "start_from": "base", "rollouts": rollouts},
        }
        for stage in ("seeds", "assemble"):
            run_stage(stage, Config.model_validate(config), tmp_path / "run", Quiet())
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        done(2, tmp_path / "run", "rl", tmp_path / "config.yaml", "--out", tmp_path / "run")
    steps = rows(tmp_path / "run" / "rl" / "metrics.jsonl")
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step["logprob_gap"] < 1e-3 for step in steps)
    assert server.asked["/v1/load_lora_adapter"] == 2
    names = list(dict.fromkeys(body["model"] for body in server.bodies))
    numbers, weights = zip(*(name.split("-")[2:] for name in names), strict=True)
    assert numbers == ("00000", "00001")
    assert len(set(weights)) == 2, "the first step trained something"
    assert list(server.adapters) == names[-1:]
    trajectories = rows(tmp_path / "run" / "rl" / "trajectories.jsonl")
    assert len(trajectories) == 12 and all(row["turns"] for row in trajectories)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
