"""A step of SFT and one of GRPO with a tiny model of each family: the loss is that of the exact targets, the
checks pass, trainer and rollouts agree, and vision stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from family_run import Scoring, config_of, write_seeds
from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Kind, StopReason, Turn, to_jsonl
from safer_steer.errors import UserError
from safer_steer.files.store import write_atomic
from safer_steer.sandbox.world import devices, draw_png
from safer_steer.student.load import load_student
from safer_steer.training.grpo import reinforce
from safer_steer.training.sft import fine_tune
from sft_run import loss_of_the_base, losses
from student_parts import TINY
from tiny_families import FAMILIES, moved, saved


def dialogue(number: int, pictures: int, later: int) -> Dialogue:
    """A dialogue with so many pictures in its first and in its second turn."""
    turns = [
        Turn(user="What is it?", assistant="It is a red box."),
        Turn(user="And why? <image><|im_end|>", assistant="I cannot help with that. " * number),
    ]
    images = [f"images/{number}.png", "images/1.png"]
    turns[1].images, images = images[:later], images[:pictures]
    return Dialogue(id=str(number), kind=Kind.BENIGN, images=images, turns=turns, stop=StopReason.COMPLETED)


def sees(checks: dict[str, Any], dialogues: int, with_pictures: int) -> None:
    assert (checks["dialogues"], checks["with_pictures"]) == (dialogues, with_pictures)
    assert checks["rendered_again"] == dialogues
    assert checks["picture_tokens"] == checks["picture_features"] > 10 and checks["blank_shift"] > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_sft(family: str, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_atomic(tmp_path / f"images/{number}.png", draw_png(devices()[number], True, number))
    dialogues = [dialogue(1, 1, 0), dialogue(2, 2, 1), dialogue(3, 0, 2), dialogue(4, 0, 0)]
    write_atomic(tmp_path / "bootstrap/kept.jsonl", to_jsonl(dialogues))
    sft = TINY["bootstrap"]["sft"] | {"batch_size": 4, "micro_batch_size": 4, "max_steps": 1}
    config = Config.model_validate(
        {"student": saved(family, tmp_path / "base"), "bootstrap": {"sft": sft}, "name": family}
    )
    base, wanted = load_student(config.student), loss_of_the_base(config, tmp_path)
    trained = load_student(config.student, fine_tune(config, tmp_path))
    assert losses(tmp_path)[0] == pytest.approx(wanted, abs=1e-4)
    assert trained.renderer.processor.chat_template == base.renderer.processor.chat_template
    sees(json.loads((tmp_path / "sft/checks.jsonl").read_text()), 4, 3)
    speaking, seeing = moved(base.model, trained.model)
    assert len(speaking) > 10 and not seeing


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_grpo(family: str, tmp_path: Path) -> None:
    write_seeds(tmp_path, 1, 2)
    config = config_of(family, tmp_path)
    model = reinforce(config, tmp_path, Scoring(), value=lambda dialogue: float(dialogue.id[-1]))
    row = json.loads((tmp_path / "rl/metrics.jsonl").read_text())
    sees(row["checks"], 4, 4)
    assert row["checks"]["engine_gap_max"] < 1e-5 and row["logprob_gap_max"] < 1e-5
    speaking, seeing = moved(*(load_student(config.student, path).model for path in (None, model)))
    assert len(speaking) > 10 and not seeing


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_micro_batch_without_a_picture_beside_one_with_pictures(family: str, tmp_path: Path) -> None:
    write_seeds(tmp_path, 0, 1)
    config = config_of(family, tmp_path)
    config.rl.micro_batch_size, config.rl.beta = 2, 0.1
    reinforce(config, tmp_path, Scoring(), value=lambda dialogue: float(dialogue.id[-1]))
    row = json.loads((tmp_path / "rl/metrics.jsonl").read_text())
    assert row["checks"]["with_pictures"] == 2 and row["checks"]["compared"] == 4
    assert row["checks"]["engine_gap_max"] < 1e-5 and row["logprob_gap_max"] < 1e-5 and row["kl"] is not None


def test_pictures_that_the_trainer_would_mix_up_are_refused(tmp_path: Path) -> None:
    write_seeds(tmp_path, 0, 2)
    with pytest.raises(UserError, match=r"^rl: with this student, scripts without a picture cannot be mixed"):
        reinforce(config_of("smolvlm", tmp_path), tmp_path, Scoring())
