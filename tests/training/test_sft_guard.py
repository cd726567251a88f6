"""The guard in SFT: a student that is trained without its pictures, or on other ids, stops with one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from transformers.modeling_layers import GradientCheckpointingLayer

from broken import Blind, Verbose, unseeing
from safer_steer.errors import UserError
from safer_steer.student.load import LoadedStudent
from safer_steer.student.modules import freeze_vision
from safer_steer.student.renderer import Renderer
from safer_steer.training import sft
from sft_run import checks, prepared
from tiny_families import built


def broken(monkeypatch: pytest.MonkeyPatch, kind: type[Renderer]) -> None:
    """The renderer breaks after it was proved."""
    load = sft.load_student

    def load_student(*args: Any, **options: Any) -> LoadedStudent:
        student = load(*args, **options)
        student.renderer.__class__ = kind
        return student

    monkeypatch.setattr(sft, "load_student", load_student)


def test_the_checks_are_written_once_a_step_also_after_an_interruption(tmp_path: Path) -> None:
    config = prepared("qwen2_5_vl", tmp_path, 1, 2, steps=5, every=2)

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sft.fine_tune(config, tmp_path, stop)
    assert [row["step"] for row in checks(tmp_path)] == [1, 3]
    sft.fine_tune(config, tmp_path)
    assert [row["step"] for row in checks(tmp_path)] == [1, 3, 4, 5], "the first step after it is checked too"
    for row in checks(tmp_path):
        assert row["picture_tokens"] == row["picture_features"] > 0 and row["rendered_again"] == 1
        assert row["blank_shift"] > 0.01 and row["engine_gap"] is None


def test_dialogues_without_pictures_pass_and_are_counted(tmp_path: Path) -> None:
    sft.fine_tune(prepared("qwen2_5_vl", tmp_path, 0, 0), tmp_path)
    (row,) = checks(tmp_path)
    assert (row["dialogues"], row["with_pictures"], row["rendered_again"]) == (1, 0, 1)
    assert (row["blank_shift"], row["picture_tokens"], row["picture_features"]) == (None, 0, 0)


def test_the_checks_leave_training_as_it_is(tmp_path: Path) -> None:
    weights = []
    for every in (0, 1):
        folder = tmp_path / str(every)
        model = sft.fine_tune(prepared("qwen2_5_vl", folder, 1, 2, steps=2, every=every), folder)
        weights.append(load_file(model / "model.safetensors"))
        assert (folder / "sft/checks.jsonl").exists() is bool(every)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_a_renderer_that_drops_the_picture(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, Blind)
    with pytest.raises(
        UserError,
        match=r"^sft: step 1: picture tokens: the ids of dialogue d\d have \d+, but 0 positions get",
    ) as stopped:
        sft.fine_tune(prepared(family, tmp_path, 1, 2), tmp_path)
    assert "\n" not in str(stopped.value) and not (tmp_path / "sft/model").exists()


def test_a_renderer_that_writes_otherwise_than_the_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, Verbose)
    with pytest.raises(
        UserError, match=r"^sft: step 1: template: the chat template renders dialogue d\d otherwise"
    ):
        sft.fine_tune(prepared("qwen2_5_vl", tmp_path, 1, 1), tmp_path)


def test_a_base_that_has_not_learned_to_see(tmp_path: Path) -> None:
    config = prepared("lfm2_vl", tmp_path, 1, 2)
    unseeing("lfm2_vl", tmp_path / "base")
    with pytest.raises(
        UserError, match=r"^sft: step 1: blank pictures: .* by 0 .* but this model ignores pictures"
    ):
        sft.fine_tune(config, tmp_path)


def test_a_tower_that_takes_the_statistics_of_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer's mode reaches a vision tower of convolutions, as it would if nobody held it."""
    monkeypatch.setattr(sft, "hold_modes", lambda model: None)
    with pytest.raises(
        UserError,
        match=r"^sft: step 1: training mode: the log-probabilities of dialogue d\d differ by .* dropout",
    ) as stopped:
        sft.fine_tune(prepared("fast_vlm", tmp_path, 1, 2), tmp_path)
    assert "\n" not in str(stopped.value)


def test_dropout_of_which_only_the_config_tells(tmp_path: Path) -> None:
    """Attention drops without a module of its own."""
    config = prepared("qwen2_5_vl", tmp_path, 1, 2)
    file = tmp_path / "base/config.json"
    settings = json.loads(file.read_text())
    settings["text_config"]["attention_dropout"] = 0.3
    file.write_text(json.dumps(settings))
    with pytest.raises(
        UserError, match=r"^sft: step 1: training mode: .* set the dropout in the model's config"
    ):
        sft.fine_tune(config, tmp_path)


def test_modules_of_dropout_and_of_statistics_are_held_whatever_is_frozen() -> None:
    model, _ = built.__wrapped__("fast_vlm")
    model.model.language_model.layers[0].dropout = torch.nn.Dropout(0.5)
    sft.hold_modes(model)
    model.train()
    kinds = torch.nn.Dropout | torch.nn.BatchNorm2d
    held = [part for part in model.modules() if isinstance(part, kinds)]
    assert len(held) > 5 and not any(part.training for part in held)
    assert model.training and model.model.vision_tower.training
    freeze_vision(model)
    sft.hold_modes(model)
    model.train()
    assert not any(part.training for part in model.model.vision_tower.modules())
    assert model.model.language_model.layers[0].self_attn.training and model.lm_head.training
    model.eval()
    assert not any(part.training for part in model.modules())


def test_stochastic_depth_is_held_in_a_tower_that_is_trained() -> None:
    """Each family has its own class for it."""
    vision = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hf.QianfanOCRVisionConfig(**vision, image_size=[56, 56], drop_path_rate=0.5)
    model = hf.QianfanOCRVisionModel(config)
    sft.hold_modes(model)
    model.train()
    dropping = [part for part in model.modules() if getattr(part, "drop_prob", 0)]
    assert len(dropping) == 2 and not any(part.training for part in dropping)
    pixels = torch.randn(4, 3, 56, 56)
    assert torch.equal(model(pixels).last_hidden_state, model(pixels).last_hidden_state)


def test_layers_that_are_computed_twice_to_save_memory_still_are() -> None:
    """They are in training mode only, also in a frozen tower, and what they consist of is held."""
    model, _ = built.__wrapped__("llava_next")
    freeze_vision(model)
    sft.hold_modes(model)
    for training in (True, False, True):
        model.train(training)
        tower = list(model.model.vision_tower.modules())
        layers = [part for part in tower if isinstance(part, GradientCheckpointingLayer)]
        assert len(layers) == 2 and all(part.training is training for part in layers)
        assert not any(part.training for part in tower if part not in layers)
