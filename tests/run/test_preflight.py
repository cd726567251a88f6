"""What is said before a run starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma4Config, Qwen2Config

from places import CONFIGS
from safer_steer.config import SHIPPED
from safer_steer.config_file import load_config
from safer_steer.errors import UserError
from safer_steer.run.preflight import check_student, room_for_turns
from student_parts import tiny_config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_shipped_config_runs_out_of_context_by_arithmetic(path: Path) -> None:
    assert room_for_turns(load_config(path)) == ""


def test_a_config_whose_longest_trajectory_cannot_fit_is_told_what_would() -> None:
    config = tiny_config(
        student={"max_turn_tokens": 1024}, seeds={"max_turns": 10}, rl={"max_completion_tokens": 10_240}
    )
    line = room_for_turns(config)
    assert "10 answers of 1,024 tokens" in line and "may need 10,790 tokens" in line
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
