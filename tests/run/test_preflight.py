"""What is said before a run starts."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import Gemma4Config, Qwen2Config

from places import CONFIGS
from safer_steer.config import SHIPPED
from safer_steer.config.file import load_config
from safer_steer.errors import UserError
from safer_steer.run.preflight import check, check_student
from safer_steer.stages.checks import room_for_turns
from safer_steer.student import processes
from student_parts import tiny_config


def test_one_process_does_not_train_on_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    processes.refuse_data_parallel("cpu")
    with pytest.raises(UserError, match="torchrun --nproc_per_node 4 -m safer_steer") as error:
        processes.refuse_data_parallel("auto")
    assert "\n" not in str(error.value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    processes.refuse_data_parallel("auto")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_shipped_config_runs_out_of_context_by_arithmetic(path: Path) -> None:
    assert room_for_turns(load_config(path)) == ""


def test_a_config_whose_longest_trajectory_cannot_fit_is_told_what_would() -> None:
    config = tiny_config(
        student={"max_turn_tokens": 1024}, seeds={"max_turns": 10}, rl={"max_completion_tokens": 10_240}
    )
    line = room_for_turns(config)
    assert "10 answers of 1,024 tokens" in line and "may need 10,790 tokens" in line
    config.rl.single_turn = True
    assert room_for_turns(config) == "", "there is one answer"
    config.rl.single_turn = False
    assert "lower student.max_turn_tokens to 969" in line
    config.student.max_turn_tokens = 969
    assert room_for_turns(config) == ""
    config.student.max_turn_tokens = 970
    assert room_for_turns(config)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            Gemma4Config(text_config={"num_hidden_layers": 2}),
            "language model and vision tower .* cannot be told",
        ),
        (Qwen2Config(num_hidden_layers=2), "qwen2 is not a vision-language model"),
    ],
)
def test_a_student_that_cannot_be_trained_is_refused_before_anything_runs(
    config: Any, told: str, tmp_path: Path
) -> None:
    """Its processor is good; only the model's config tells."""
    shutil.copytree(SHIPPED, tmp_path / "student", ignore=shutil.ignore_patterns("*.safetensors"))
    check_student(tiny_config(student={"model": str(tmp_path / "student")}))
    config.save_pretrained(tmp_path / "student")
    with pytest.raises(UserError, match=rf"^student .*: {told}") as refused:
        check_student(tiny_config(student={"model": str(tmp_path / "student")}))
    assert "\n" not in str(refused.value)


def test_scripts_with_later_pictures_are_refused_where_the_student_or_trl_takes_none(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    turns = [{"user": "x"}, {"user": "y", "images": ["a.png"]}]
    row = {"id": "late", "kind": "red_team", "images": ["a.png"], "turns": turns}
    for name in ("own.jsonl", "suite.jsonl"):
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    shutil.copytree(SHIPPED, tmp_path / "student", ignore=shutil.ignore_patterns("*.safetensors"))
    bench = {"suites": [str(tmp_path / "suite.jsonl")]}
    judge = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
    config = tiny_config(
        student={"model": str(tmp_path / "student")},
        seeds={"scripts": str(tmp_path / "own.jsonl")},
        bench=bench,
        roles=dict.fromkeys(("red", "blue", "evaluator", "tutor", "judge"), judge),
    )
    check_student(config, ["seeds", "sft", "bench"])
    with pytest.raises(UserError, match=r"^rl: late: turn 2 shows a\.png, .*first user turn only; give"):
        asyncio.run(check(config, ["seeds", "bootstrap", "sft", "rl"]))
    template = tmp_path / "student" / "chat_template.jinja"
    writes = "<|vision_start|><|image_pad|><|vision_end|>"
    assert writes in template.read_text()
    early = f"{{% if message == messages[1] %}}{writes}{{% endif %}}"
    template.write_text(template.read_text().replace(writes, early))
    check_student(config, ["seeds", "bootstrap"])
    for stage, file in (("sft", "own"), ("bench", "suite")):
        told = rf"^{tmp_path}/{file}\.jsonl: late: student .* takes pictures in the first user turn only"
        with pytest.raises(UserError, match=told):
            check_student(config, ["seeds", stage])


def test_a_process_that_fails_before_they_are_connected_speaks_unless_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its GPU may be busy, and that of rank 0 not."""
    waited: list[float] = []
    monkeypatch.setattr(processes.time, "sleep", waited.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert processes.may_speak()
    assert waited == [0, processes.LAST_WORDS_S]


def test_dpo_is_refused_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(rl={"algorithm": "dpo", "prompts_per_step": 2})
    asyncio.run(check(config, ["rl"]))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^rl\.algorithm: dpo trains in one process; start `rl` without"):
        asyncio.run(check(config, ["rl"]))
