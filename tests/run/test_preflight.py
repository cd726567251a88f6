"""What is said before a run starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from places import CONFIGS
from safer_steer.config_file import load_config
from safer_steer.run.preflight import room_for_turns
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
