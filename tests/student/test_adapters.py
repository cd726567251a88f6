"""LoRA in bfloat16: the policy that was trained is the one that is measured, trained further and exported,
however small its update."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from trl.trainer.utils import use_adapter

from broken import before_training, freeze_b
from safer_steer.config import SHIPPED, Config
from safer_steer.config.rl import SHIPPED_ATTACKER
from safer_steer.data.bootstrap.rollout import roll_out
from safer_steer.dialogue import Format, read_dialogues
from safer_steer.errors import UserError
from safer_steer.files.images import pictures_in
from safer_steer.student.adapters import NAME, with_adapter
from safer_steer.student.load import LoadedStudent, load_student
from safer_steer.student.merging import merged
from safer_steer.training import grpo, sft
from safer_steer.training.sft import Collator
from safer_steer.training.tutor import TutorCritic
from student_parts import TINY, ask, drawn_for_rl, tiny_config, write_seeds

RATE = 1e-5
"""The paper's. A step of it is a fraction of a step between two bfloat16 weights."""


def config_of(**rl: object) -> Config:
    student = TINY["student"] | {"dtype": "bfloat16", "lora_rank": 4}
    tuning = TINY["bootstrap"]["sft"] | {"learning_rate": RATE, "max_steps": 6}
    steps = TINY["rl"] | {"learning_rate": 1e-3, "micro_batch_size": 3} | rl
    return tiny_config(student=student, bootstrap={"sft": tuning}, rl=steps)


def tutor(folder: Path) -> TutorCritic:
    return TutorCritic(ask("tutor"), Format.THINKING_ANSWER, pictures_in(folder, 100_000))


class Run:
    """A run up to RL, and the policies in their trainers when each stage ended."""

    def __init__(self, folder: Path) -> None:
        import asyncio

        self.folder, self.config = folder, config_of()
        self.policies: dict[str, Any] = {}
        write_seeds(folder, 6)
        asyncio.run(roll_out(self.config, folder, ask))
        drawn_for_rl(self.config, folder)
        with pytest.MonkeyPatch.context() as patch:
            for stage in (sft, grpo):
                patch.setattr(stage, "save_trained", self._keeping(stage.save_trained))  # type: ignore[attr-defined]
            sft.fine_tune(self.config, folder)
            shutil.copytree(folder, folder.with_name("after_sft"))
            grpo.reinforce(self.config, folder, tutor(folder))

    def _keeping(self, save: Callable[..., None]) -> Callable[..., None]:
        def saving(trainer: Any, processor: Any, folder: Path, *rest: Any) -> None:
            save(trainer, processor, folder, *rest)
            model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
            self.policies[folder.parent.name] = model.eval()

        return saving

    def saved(self, stage: str, dtype: str | None = None) -> LoadedStudent:
        """What bench and chat load."""
        return load_student(self.config.student, self.folder / stage / "model", dtype=dtype)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("adapters") / "run")


@pytest.fixture(scope="module")
def base(run: Run) -> LoadedStudent:
    return load_student(run.config.student)


@pytest.fixture(scope="module")
def batch(run: Run, base: LoadedStudent) -> dict[str, torch.Tensor]:
    """The dialogues of SFT."""
    dialogues = read_dialogues(run.folder / "bootstrap" / "kept.jsonl")
    collator = Collator(dialogues, base.renderer, run.folder, run.config)
    return collator([{"row": row} for row in range(len(dialogues))])


@torch.no_grad()
def logprobs(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of every token of the vocabulary after each of the assistant's: [tokens, vocabulary]."""
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    logits = model(**inputs).logits[:, :-1][batch["labels"][:, 1:] >= 0]
    return logits.float().log_softmax(-1)


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_what_is_measured_is_what_was_trained(run, base, batch, stage):
    trained = logprobs(run.policies[stage], batch)
    assert torch.equal(logprobs(run.saved(stage).model, batch), trained)
    assert not torch.equal(logprobs(base.model, batch), trained)


def test_nothing_of_the_update_is_rounded_away(run):
    """Of each weight that is adapted: base and update, as the saved student has them."""
    trained, saved = run.policies["sft"], run.saved("sft").model
    layers = dict(trained.named_modules())
    adapted = [name for name, layer in saved.named_modules() if hasattr(layer, "get_delta_weight")]
    assert len(adapted) == 42
    for name in adapted:
        ours, theirs = (dict(model.named_modules())[name] for model in (saved, trained))
        update = layers[name].get_delta_weight("default")
        assert torch.equal(ours.get_delta_weight("default"), update) and update.any()
        assert torch.equal(ours.get_base_layer().weight, theirs.get_base_layer().weight)
        step = 2.0**-8 * ours.get_base_layer().weight.float().abs()
        assert (update.abs() < step / 2).float().mean() > 0.5, "merged in bfloat16, most of it would be gone"


def test_rl_begins_with_the_policy_of_sft_which_stays_its_reference(run, batch):
    model = run.policies["rl"]
    assert isinstance(model, PeftModel)
    rows = [json.loads(row) for row in (run.folder / "rl" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl"] == 0 < rows[1]["kl"]
    with use_adapter(model, "ref"):
        reference = logprobs(model, batch)
    assert torch.equal(reference, logprobs(run.saved("sft").model, batch))
    assert not torch.equal(reference, logprobs(model, batch))


def test_an_adapter_of_sft_that_rl_does_not_train_is_noticed(run, tmp_path, monkeypatch):
    """Beside it, the model has the reference's, which no step moves."""
    folder = tmp_path / "run"
    shutil.copytree(run.folder.with_name("after_sft"), folder)
    before_training(monkeypatch, grpo, freeze_b)
    with pytest.raises(UserError, match=r"weights: lora_B has a gradient .* but the step did not move it"):
        grpo.reinforce(run.config, folder, tutor(folder))


@pytest.mark.slow
def test_rl_that_is_stopped_goes_on_with_its_adapter_and_its_reference(run, batch, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(run.folder.with_name("after_sft"), folder)

    def stop(done: int, total: int) -> None:
        if (folder / "rl" / "checkpoint-1" / "checkpoint.whole").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grpo.reinforce(run.config, folder, tutor(folder), stop)
    trainers = []
    save = grpo.save_trained
    monkeypatch.setattr(
        grpo, "save_trained", lambda trainer, *rest: trainers.append(trainer) or save(trainer, *rest)
    )
    done: list[int] = []
    grpo.reinforce(run.config, folder, tutor(folder), lambda step, total: done.append(step))
    assert done == [2]
    ours, straight = (
        load_file(at / "rl" / "model" / "adapter_model.safetensors") for at in (folder, run.folder)
    )
    assert all(torch.allclose(ours[name], straight[name], atol=1e-6) for name in straight)
    model = trainers[0].accelerator.unwrap_model(trainers[0].model, keep_fp32_wrapper=False).eval()
    with use_adapter(model, "ref"):
        assert torch.equal(logprobs(model, batch), logprobs(run.saved("sft").model, batch))


def test_only_the_adapter_is_saved_and_it_says_on_what(run):
    for stage in ("sft", "rl"):
        folder = run.folder / stage / "model"
        assert [path.name for path in folder.glob("*.safetensors")] == ["adapter_model.safetensors"]
        weights = load_file(folder / "adapter_model.safetensors")
        assert len(weights) == 84 and {weight.dtype for weight in weights.values()} == {torch.float32}
        named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert named == str(SHIPPED)


def test_the_shipped_attacker_on_its_base_is_looked_for_nowhere_else() -> None:
    base = load_student(Config().student).model
    assert with_adapter(base, SHIPPED_ATTACKER).peft_config[NAME].base_model_name_or_path == str(SHIPPED)


@pytest.mark.slow
def test_merged_weights_keep_the_update_on_average(run, base, batch):
    """In what the model says, not in its weights alone: in float32 arithmetic, whose noise is small."""
    before = base.model.state_dict()
    exact = {name: weight.float() for name, weight in before.items()}
    for name, layer in run.saved("sft").model.get_base_model().named_modules():
        if hasattr(layer, "get_delta_weight"):
            exact[f"{name}.weight"] = exact[f"{name}.weight"] + layer.get_delta_weight("default")
    nearest = {name: weight.to(torch.bfloat16) for name, weight in exact.items()}
    assert left(before, exact, nearest)[0] < 0.5, "which is why it is not rounded to the nearest"
    whole = load_student(run.config.student, dtype="float32").model

    def said(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        whole.load_state_dict(weights)
        return logprobs(whole, batch)

    unchanged = said(before)
    update = said(exact) - unchanged

    def told(weights: dict[str, torch.Tensor]) -> float:
        """The share of the update in what the model says."""
        return float((update * (said(weights) - unchanged)).sum() / update.square().sum())

    shares = []
    for seed in range(4):
        model, remainder = merged(run.saved("sft").model, seed)
        assert not hasattr(model, "peft_config") and model.dtype == torch.bfloat16
        share, noise = left(before, exact, model.state_dict())
        assert (remainder.share, remainder.noise) == pytest.approx((share, noise), rel=1e-4)
        assert share == pytest.approx(1, abs=0.02)
        shares.append(told(model.state_dict()))
    print(shares, told(nearest))
    assert sum(shares) / len(shares) == pytest.approx(1, abs=0.2) and told(nearest) < 0.5


def left(
    base: dict[str, torch.Tensor], exact: dict[str, torch.Tensor], rounded: dict[str, torch.Tensor]
) -> tuple[float, float]:
    """The share of the update that the rounded weights have, and the norm of the rest relative to it."""
    update = torch.cat([(exact[name] - base[name].float()).double().flatten() for name in base])
    new = torch.cat([(rounded[name].float() - base[name].float()).double().flatten() for name in base])
    return float(update @ new / (update @ update)), float((new - update).norm() / update.norm())


def test_merging_gives_the_same_weights_again_and_is_exact_in_float32(run):
    one, other = (merged(run.saved("sft").model, seed=3)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    _, remainder = merged(run.saved("sft", "float32").model, seed=0)
    assert (remainder.share, remainder.noise) == pytest.approx((1, 0), abs=1e-2)


def test_an_adapter_is_not_trained_on_merged_weights(run, tmp_path):
    shutil.copytree(run.folder / "splits", tmp_path / "splits")
    shutil.copytree(run.folder / "images", tmp_path / "images")
    shutil.copytree(SHIPPED, tmp_path / "sft" / "model")
    with pytest.raises(UserError, match=r"^student.lora_rank: .*sft/model has all weights.* again$"):
        grpo.reinforce(run.config, tmp_path, tutor(tmp_path))
    assert not (tmp_path / "rl" / "model").exists()


def test_an_adapter_of_another_model_is_one_line(run, tmp_path):
    shutil.copytree(run.folder / "sft" / "model", tmp_path / "model")
    path = tmp_path / "model" / "adapter_config.json"
    settings = json.loads(path.read_text())
    for nonsense in ({"r": 3}, {"r": "8"}, {"target_modules": "("}):
        path.write_text(json.dumps(settings | nonsense))
        with pytest.raises(UserError, match=r"^student .*model: not an adapter of .*student") as error:
            load_student(run.config.student, tmp_path / "model")
        assert "\n" not in str(error.value)


def test_damaged_weights_and_those_that_may_run_code_are_one_line(run, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(run.folder / "sft" / "model", model)
    weights, settings = model / "adapter_model.safetensors", model / "adapter_config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(UserError, match=r"model: not an adapter of "):
        load_student(run.config.student, model)
    weights.rename(model / "adapter_model.bin")
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        load_student(run.config.student, model)
    for damaged in ("{", "[]", "{}", '{"peft_type": "EVIL"}'):
        settings.write_text(damaged)
        with pytest.raises(UserError, match="not the settings of a LoRA adapter"):
            load_student(run.config.student, model)
    shutil.copytree(SHIPPED, tmp_path / "cut")
    cut = tmp_path / "cut" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"^student .*cut: cannot be loaded"):
        load_student(run.config.student.model_copy(update={"model": str(tmp_path / "cut")}))
