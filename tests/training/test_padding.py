"""Sorted and cut micro-batches: the same rows, loss and gradient as TRL's own, from fewer tokens."""

from __future__ import annotations

import gc
import shutil
from dataclasses import dataclass, field

import pytest
import torch
from trl import DPOTrainer, GRPOTrainer, SFTTrainer
from trl.trainer.utils import unsplit_pixel_values_by_grid

from dpo_run import dpo_config
from safer_steer.dialogue import Format
from safer_steer.files.images import pictures_in
from safer_steer.student.given import given_to_dpo, given_to_grpo, given_to_sft
from safer_steer.training import dpo, grpo, padding, sft, trainers
from safer_steer.training.tutor import TutorCritic
from student_parts import ask, bootstrapped, drawn_for_rl, tiny_config

pytestmark = pytest.mark.slow

TRAINERS = {
    "sft": (sft, "GuardedSFT", given_to_sft, SFTTrainer, ["get_train_dataloader"]),
    "dpo": (dpo, "GuardedDPO", given_to_dpo, DPOTrainer, ["get_train_dataloader"]),
    "rl": (
        grpo,
        "TurnCreditTrainer",
        given_to_grpo,
        GRPOTrainer,
        ["_prepare_inputs", "_get_per_token_logps_and_entropies"],
    ),
}
"""Module and name of each stage's trainer, what reads its inputs, and TRL's methods that it replaces."""


@dataclass
class Step:
    """What one step learns."""

    loss: float = 0.0
    gradient: dict[str, torch.Tensor] = field(default_factory=dict)
    rows: list[tuple[int, ...]] = field(default_factory=list)
    read: int = 0
    """Tokens that the model read, with padding."""
    targets: int = 0
    """Tokens that its head read."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return bootstrapped(tmp_path_factory.mktemp("run"))


def first_step(stage: str, prepared, folder, monkeypatch, plain: bool = False) -> Step:
    """What a stage's first step learns; `plain`: with TRL's own micro-batches."""
    shutil.copytree(prepared, folder)
    module, name, reader, base, methods = TRAINERS[stage]
    step = Step()

    class Watched(getattr(module, name)):
        def training_step(self, model, inputs, *args):
            loss = super().training_step(model, inputs, *args)
            step.loss += loss.item()
            step.gradient = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
            return loss

        def compute_loss(self, model, inputs, *args, **options):
            step.rows += [tuple(row.ids) for row in reader(inputs)]
            hook = model.register_forward_pre_hook(count, with_kwargs=True)
            loss = super().compute_loss(model, inputs, *args, **options)
            hook.remove()
            return loss

    def count(_, __, inputs):
        step.read += inputs["input_ids"].numel()
        step.targets += int((inputs["labels"] != -100).sum())

    for method in methods if plain else []:
        setattr(Watched, method, getattr(base, method))
    monkeypatch.setattr(module, name, Watched)
    tutor = TutorCritic(ask("tutor"), Format.THINKING_ANSWER, pictures_in(folder, 100_000))
    unchecked = tiny_config().student.model_dump(mode="json") | {"check_every": 0}
    if stage == "sft":
        many = tiny_config().bootstrap.sft.model_dump() | {"micro_batch_size": 2, "max_steps": 1}
        sft.fine_tune(tiny_config(student=unchecked, bootstrap={"sft": many}), folder)
    else:
        config = dpo_config(start_from="base", steps=1, micro_batch_size=4, seeds=6, prompts_per_step=6)
        if stage == "rl":
            rl = tiny_config().rl.model_dump() | {"steps": 1, "start_from": "base", "micro_batch_size": 2}
            config = tiny_config(student=unchecked, rl=rl | {"credit": "turn"})
        drawn_for_rl(config, folder)
        train = grpo.reinforce if stage == "rl" else dpo.prefer
        train(config, folder, tutor)
    return step


@pytest.fixture(params=TRAINERS, scope="module")
def plain(request, prepared, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("plain") / "run"
        return request.param, first_step(request.param, prepared, folder, patch, plain=True)


def off(one: Step, other: Step) -> float:
    """Difference of two gradients, as a share of their length."""
    assert one.gradient.keys() == other.gradient.keys()
    pairs = [(gradient, other.gradient[name]) for name, gradient in one.gradient.items()]
    difference = sum((a - b).square().sum() for a, b in pairs)
    return float((difference / sum(a.square().sum() for a, _ in pairs)).sqrt())


def test_loss_gradient_and_rows_are_those_of_trl_from_fewer_tokens(plain, prepared, tmp_path, monkeypatch):
    stage, before = plain
    after = first_step(stage, prepared, tmp_path / "run", monkeypatch)
    assert sorted(after.rows) == sorted(before.rows) and after.rows != before.rows
    assert after.loss == pytest.approx(before.loss, abs=1e-6)
    assert 0 < off(before, after) < 1e-6
    assert after.read < before.read
    lengths = [len(ids) for ids in after.rows]
    if stage == "rl":
        assert lengths == sorted(lengths, reverse=True)
        assert after.targets < before.targets, "the other users' turns are left out"


def test_an_advantage_left_behind_or_a_row_read_again_shows(plain, prepared, tmp_path, monkeypatch):
    stage, before = plain
    if stage == "rl":
        sort = padding.by_length

        def careless(rows, lengths, count):
            still = rows | {"advantages": rows["advantages"].flip(0)} if "advantages" in rows else rows
            return sort(still, lengths, count)

        monkeypatch.setattr(trainers, "by_length", careless)
    else:
        monkeypatch.setattr(padding.LongestFirst, "__iter__", lambda self: iter([0] * len(self.lengths)))
    after = first_step(stage, prepared, tmp_path / "run", monkeypatch)
    assert off(before, after) > 1e-3


def test_no_pictures_but_those_of_the_step_are_held(prepared, tmp_path, monkeypatch):
    held: dict[str, list[int]] = {"rollouts": [], "scoring": [], "training": []}
    steps = []
    others = pictures_in_memory()  # of other tests; they are kept, so that no place is taken again
    places = {one.untyped_storage().data_ptr() for one in others}

    def bytes_of_pictures() -> int:
        storages = [one.untyped_storage() for one in pictures_in_memory()]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        return sum(size for place, size in sizes.items() if place not in places)

    class Watched(trainers.MeasuredTrainer):
        def _generate(self, prompts):
            held["rollouts"].append(bytes_of_pictures())
            return super()._generate(prompts)

        def _generate_and_score_completions(self, inputs):
            step = super()._generate_and_score_completions(inputs)
            steps.append((len(inputs), step["pixel_values"].nbytes))
            return step

        def _scored(self, *args):
            held["training" if torch.is_grad_enabled() else "scoring"].append(bytes_of_pictures())
            return super()._scored(*args)

    folder = shutil.copytree(prepared, tmp_path / "run")
    monkeypatch.setattr(grpo, "MeasuredTrainer", Watched)
    rl = {"steps": 2, "start_from": "base", "beta": 0.1, "micro_batch_size": 1}
    config = tiny_config(rl=tiny_config().rl.model_dump() | rl)
    drawn_for_rl(config, folder)
    tutor = TutorCritic(ask("tutor"), Format.THINKING_ANSWER, pictures_in(folder, 100_000))
    grpo.reinforce(config, folder, tutor)
    [(rows, whole)] = set(steps)
    assert rows == 6 and held["rollouts"] == [0, 0]
    assert {len(held[name]) for name in ("scoring", "training")} == {2 * rows}
    assert whole < max(held["scoring"]) <= max(held["training"]) <= whole + 3 * whole / rows


def test_pictures_of_one_row_for_each_dialogue_are_not_copied_either():
    pixels = torch.arange(4.0 * 2 * 3 * 5 * 5).view(4, 2, 3, 5, 5)
    rows = {"input_ids": torch.zeros(4, 9), "pixel_values": pixels, "num_images": [2, 1, 2, 2]}
    rows["pixel_attention_mask"] = pixels[:, :, 0] > 7
    order, parts = padding.by_length(rows, torch.tensor([3, 9, 1, 5]), 2)
    assert order.tolist() == [1, 3, 0, 2]
    for name in ("pixel_values", "pixel_attention_mask"):
        places = {one.untyped_storage().data_ptr() for part in parts for one in part[name]}
        assert places == {rows[name].untyped_storage().data_ptr()}
        joined = [unsplit_pixel_values_by_grid(part)[name] for part in parts]
        assert torch.equal(torch.cat(joined), rows[name][order])


def pictures_in_memory() -> list[torch.Tensor]:
    """The vision tower's inputs."""
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is torch.Tensor and one.shape[1:] == (1176,)]


@pytest.mark.parametrize(("lengths", "order"), [([1, 5, 2, 9, 9, 7], [3, 4, 1, 0, 5, 2]), ([1] * 6, None)])
def test_only_rows_of_a_whole_step_change_places(lengths, order):
    drawn = [3, 0, 4, 1, 5, 2]
    assert list(padding.LongestFirst(drawn, lengths, 4)) == (order or drawn)
