"""Saving a trained student."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from safer_steer.student.training import save_model
from student_parts import tiny_config


class Killed(BaseException):
    pass


def is_whole(folder: Path) -> bool:
    try:
        with safe_open(folder / "model.safetensors", "pt") as weights:
            return len(weights.keys()) > 100
    except OSError:
        return False


@pytest.mark.parametrize("at", range(5))
def test_a_kill_while_a_model_is_replaced_leaves_a_whole_one(student, tmp_path, monkeypatch, at):
    """The kill comes at the given step among those that move or delete a folder."""
    folder, settings = tmp_path / "model", tiny_config().student
    save_model(student.model, student.renderer.processor, folder, settings)
    steps = 0

    def counted(work):
        def step(*arguments, **keywords):
            nonlocal steps
            if steps == at:
                raise Killed
            steps += 1
            return work(*arguments, **keywords)

        return step

    monkeypatch.setattr(os, "rename", counted(os.rename))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    with pytest.raises(Killed):
        save_model(student.model, student.renderer.processor, folder, settings)
    assert any(is_whole(path) for path in tmp_path.iterdir() if path.name != "model.part")
