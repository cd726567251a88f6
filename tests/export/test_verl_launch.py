"""What the scripts in configs/verl/ refuse, with the shell alone: verl would train something else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from places import ROOT
from safer_steer.config import Config
from safer_steer.config.file import dump_config
from safer_steer.export.verl import as_lines, overrides


def launched(folder: Path, model: str = "", **rl: str) -> subprocess.CompletedProcess[str]:
    """Launch a run with these settings of `rl`; in place of verl, its arguments are printed."""
    config = Config.model_validate({"rl": rl, "student": {"lora_rank": 4}})
    (folder / "export" / "verl").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    (folder / "export" / "verl" / "overrides.txt").write_text(as_lines(overrides(config)))
    command = ["bash", str(ROOT / "configs" / "verl" / "qwen2.5-vl-3b.sh"), str(folder)]
    environment = os.environ | {"PYTHON": "echo", "MODEL": model}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("rl", "line"),
    [
        (
            {"start_from": "base"},
            "rl.start_from is base, and verl starts from sft/model; name the base student",
        ),
        ({"algorithm": "dpo"}, "rl.algorithm: dpo and cotrain are not trained on verl"),
        ({"algorithm": "cotrain"}, "rl.algorithm: dpo and cotrain are not trained on verl"),
    ],
    ids=["base", "dpo", "cotrain"],
)
def test_what_verl_would_not_train_is_refused(rl: dict[str, str], line: str, tmp_path: Path) -> None:
    done = launched(tmp_path, **rl)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{tmp_path}/config.yaml: {line}") and done.stderr.count("\n") == 1


def test_it_starts_from_the_sft_student_or_from_the_one_that_is_named(tmp_path: Path) -> None:
    sft = launched(tmp_path / "sft")
    assert f"actor_rollout_ref.model.path='{tmp_path}/sft/sft/model'" in sft.stdout, sft.stderr
    base = launched(tmp_path / "base", model="some/base", start_from="base")
    assert "actor_rollout_ref.model.path='some/base'" in base.stdout, base.stderr


def test_an_adapter_is_no_student_to_start_from(tmp_path: Path) -> None:
    (tmp_path / "sft" / "model").mkdir(parents=True)
    (tmp_path / "sft" / "model" / "adapter_config.json").touch()
    done = launched(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{tmp_path}/sft/model is an adapter: run `safer-steer export ")
