"""The guard in SFT: what the loss is given is what was rendered, and the weights learn from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from broken import (
    Sabotage,
    before_training,
    cut_gradients,
    freeze_b,
    lose_b,
    lose_weights,
    spoil_gradients,
)
from safer_steer.config import Config
from safer_steer.errors import UserError
from safer_steer.training import sft
from sft_run import checks, prepared

Batch = dict[str, Any]


def config_of(folder: Path, rank: int = 0, steps: int = 2, every: int = 1, **changes: Any) -> Config:
    """Two dialogues that differ in their pictures alone, in one micro-batch."""
    config = prepared("qwen2_5_vl", folder, 1, 1, steps=steps, every=every)
    config.student.lora_rank = rank
    settings = config.bootstrap.sft
    config.bootstrap.sft = settings.model_copy(update={"micro_batch_size": 2, **changes})
    rows = (folder / "bootstrap/kept.jsonl").read_text().splitlines()
    rows[1] = rows[1].replace("images/1.png", "images/2.png").replace("a red box", "a blue can")
    (folder / "bootstrap/kept.jsonl").write_text("\n".join(rows) + "\n")
    return config


def swap_pictures(batch: Batch) -> Batch:
    pixels = batch["pixel_values"]
    return batch | {"pixel_values": torch.cat([pixels[len(pixels) // 2 :], pixels[: len(pixels) // 2]])}


def roll_labels(batch: Batch) -> Batch:
    """Each token is taught a step too late."""
    return batch | {"labels": batch["labels"].roll(1, 1)}


def move_mask(batch: Batch) -> Batch:
    learnt = (batch["labels"] != -100).roll(-1, 1)
    return batch | {"labels": batch["input_ids"].where(learnt, -100)}


def lose_mask(batch: Batch) -> Batch:
    return batch | {"labels": batch["input_ids"].where(batch["attention_mask"] == 1, -100)}


def drop_the_last_answer(batch: Batch) -> Batch:
    labels = batch["labels"].clone()
    last = (labels[0] != -100).nonzero()[-3:]
    labels[0, last] = -100
    return batch | {"labels": labels}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "complaint"),
    [
        (swap_pictures, r"pictures: dialogue d\d is trained with others than it shows"),
        (roll_labels, r"labels: \d+ labels of dialogue d\d are not the ids at their places"),
        (move_mask, r"loss mask: the loss of dialogue d\d is taken over 2 tokens .* leaves out 2 that are"),
        (lose_mask, r"loss mask: the loss of dialogue d\d is taken over \d\d+ tokens .* leaves out 0 that"),
        (drop_the_last_answer, r"loss mask: .* is taken over 0 tokens .* and leaves out 3 that are"),
    ],
)
def test_a_batch_that_is_not_what_was_rendered(
    sabotage: Callable[[Batch], Batch], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our collator and the loss."""
    prepare = Trainer._prepare_inputs
    monkeypatch.setattr(Trainer, "_prepare_inputs", lambda self, batch: prepare(self, sabotage(dict(batch))))
    with pytest.raises(UserError, match=f"^sft: step 1: {complaint}") as stopped:
        sft.fine_tune(config_of(tmp_path), tmp_path)
    assert "\n" not in str(stopped.value) and not (tmp_path / "sft/model").exists()


def test_labels_that_go_wrong_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are compared at every step, in every micro-batch."""
    batches = iter(range(100))
    prepare = Trainer._prepare_inputs

    def late(self: Trainer, batch: Batch) -> Batch:
        return prepare(self, roll_labels(dict(batch)) if next(batches) == 3 else batch)

    monkeypatch.setattr(Trainer, "_prepare_inputs", late)
    with pytest.raises(UserError, match=r"^sft: step 2: labels: "):
        sft.fine_tune(config_of(tmp_path, every=10, micro_batch_size=1), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "rank", "complaint"),
    [
        (freeze_b, 4, "1: gradient: that of lora_B is 0, although .*: it is frozen"),
        (cut_gradients, 0, "1: gradient: that of the language model is 0, although .*: it is cut off"),
        (cut_gradients, 4, "1: gradient: that of lora_A is 0|1: gradient: that of lora_B is 0"),
        (spoil_gradients, 0, "1: gradient: that of the language model is not a number"),
        (lose_weights, 0, "1: weights: the language model has a gradient .* but the step did not move it"),
        (lose_b, 4, "1: weights: lora_B has a gradient .* but the step did not move it"),
    ],
)
def test_weights_that_do_not_learn(
    sabotage: Sabotage, rank: int, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_training(monkeypatch, sft, sabotage)
    with pytest.raises(UserError, match=f"^sft: step {complaint}") as stopped:
        sft.fine_tune(config_of(tmp_path, rank), tmp_path)
    assert "\n" not in str(stopped.value) and not (tmp_path / "sft/model").exists()


def test_b_that_is_frozen_once_it_has_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A still has a gradient then."""

    def freeze_later(trainer: Trainer) -> None:
        step = trainer.training_step

        def training_step(*args: Any) -> torch.Tensor:
            if trainer.state.global_step == 1:
                freeze_b(trainer)
            return step(*args)

        trainer.training_step = training_step

    before_training(monkeypatch, sft, freeze_later)
    with pytest.raises(UserError, match=r"^sft: step 2: gradient: that of lora_B is 0"):
        sft.fine_tune(config_of(tmp_path, rank=4), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "changes"),
    [
        (4, {}),  # A has no gradient at the first step, since B is 0
        (4, {"micro_batch_size": 1}),
        (0, {"schedule": "cosine", "warmup_ratio": 0.5}),  # the first step's learning rate is 0
        (0, {"schedule": "cosine", "learning_rate": 1e-12}),  # rounds away
    ],
)
def test_a_healthy_run_passes(rank: int, changes: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tmp_path, rank, steps=4, **changes)
    sft.fine_tune(config, tmp_path)
    rows = checks(tmp_path)
    assert len(rows) == 4
    for row in rows:
        assert row["compared"] == 2 and row["gradient"] > 0
        assert row["pixel_gap"] < 1e-4 and row["loss_tokens"] > 20
    assert rows[1]["moved"] == pytest.approx(config.bootstrap.sft.learning_rate, rel=0.6)
    assert bool(rows[0]["moved"]) is ("warmup_ratio" not in changes)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4])
def test_a_healthy_run_in_bfloat16_passes(rank: int, tmp_path: Path) -> None:
    """Its weights in training, or its adapter's, are in float32."""
    config = config_of(tmp_path, rank, learning_rate=1e-5)
    config.student.dtype = "bfloat16"
    sft.fine_tune(config, tmp_path)
    assert all(1e-6 < row["moved"] < 1e-4 for row in checks(tmp_path))
