"""The guard in DPO: the loss compares the answers that were scored, and the weights learn from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from broken import Sabotage, before_training, cut_gradients, freeze_b, lose_weights
from dpo_run import dpo_config
from safer_steer.config import SHIPPED, Config
from safer_steer.dialogue import Dialogue, Format, to_jsonl
from safer_steer.episode import Verdict
from safer_steer.errors import UserError
from safer_steer.files.images import pictures_in
from safer_steer.files.store import write_atomic
from safer_steer.student.policy import Completion, Sampling, cut_at_its_end
from safer_steer.student.transcript import Transcript
from safer_steer.student.transformers_policy import TransformersPolicy
from safer_steer.training import dpo
from safer_steer.training.tutor import TutorCritic
from student_parts import ask, drawn_for_rl, write_seeds

Batch = dict[str, Any]


def config_of(rank: int = 0) -> Config:
    """Two steps over pairs of four dialogues, two pairs or more in a micro-batch."""
    config = dpo_config(steps=2)
    config.student.lora_rank, config.student.check_every = rank, 1
    config.rl.start_from = "base" if rank else "sft"  # the same weights: sft/model is the base
    return config


def train(folder: Path, config: Config) -> list[dict[str, Any]]:
    """The steps' metrics."""
    dpo.prefer(
        config, folder, TutorCritic(ask("tutor"), Format.THINKING_ANSWER, pictures_in(folder, 100_000))
    )
    return [json.loads(row) for row in (folder / "rl/metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose answers are sampled and scored."""
    folder = tmp_path_factory.mktemp("played")
    write_seeds(folder, 6)
    shutil.copytree(SHIPPED, folder / "sft/model")
    drawn_for_rl(config_of(), folder)

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before_training(patch, dpo, stop)
        train(folder, config_of())
    return folder


@pytest.fixture
def run(played: Path, tmp_path: Path) -> Path:
    shutil.copytree(played, tmp_path / "run")
    return tmp_path / "run"


def by_row(change: Callable[[list[Any]], list[Any]]) -> Callable[[Batch], Batch]:
    """A change of the order of the rows, pictures included; each has one."""

    def changed(batch: Batch) -> Batch:
        patches = batch["image_grid_thw"].prod(-1).tolist()
        pixels = list(batch["pixel_values"].split(patches))
        rows = {name: list(tensor) for name, tensor in batch.items() if name != "pixel_values"}
        made = {name: torch.stack(change(tensors)) for name, tensors in rows.items()}
        return made | {"pixel_values": torch.cat(change(pixels))}

    return changed


def move_masks(batch: Batch) -> Batch:
    return batch | {"completion_mask": batch["completion_mask"].roll(1, 1)}


def lose_masks(batch: Batch) -> Batch:
    return batch | {"completion_mask": batch["attention_mask"]}


def swap_pictures(batch: Batch) -> Batch:
    patches = batch["image_grid_thw"].prod(-1).tolist()
    pixels = list(batch["pixel_values"].split(patches))
    return batch | {"pixel_values": torch.cat([*pixels[1:], pixels[0]])}


def halves_swapped(rows: list[Any]) -> list[Any]:
    return rows[len(rows) // 2 :] + rows[: len(rows) // 2]


def rejected_rolled(rows: list[Any]) -> list[Any]:
    half = len(rows) // 2
    return [*rows[:half], *rows[half + 1 :], rows[half]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "complaint"),
    [
        (move_masks, r"loss mask: the loss of dialogue \d+ is taken over 1 tokens .* leaves out 1 that are"),
        (lose_masks, r"loss mask: the loss of dialogue \d+ is taken over \d\d+ tokens .* leaves out 0 that"),
        (
            by_row(halves_swapped),
            r"credit: the loss weighs the answers of dialogue \d+ with -?1, but -?1 is",
        ),
        (
            by_row(rejected_rolled),
            r"credit: the loss compares the answer of \d+ with another than that of",
        ),
        (swap_pictures, r"pictures: dialogue \d+ is trained with others than it shows"),
    ],
)
def test_a_batch_that_is_not_of_the_pairs(
    sabotage: Callable[[Batch], Batch], complaint: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = Trainer._prepare_inputs
    monkeypatch.setattr(Trainer, "_prepare_inputs", lambda self, batch: prepare(self, sabotage(dict(batch))))
    with pytest.raises(UserError, match=f"^rl: step 1: {complaint}") as stopped:
        train(run, config_of())
    assert "\n" not in str(stopped.value) and not (run / "rl/model").exists()
    assert (run / "rl/candidates.jsonl").is_file(), "what was sampled and paid for is sound"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "rank", "complaint"),
    [
        # It has a gradient again once the reference has run without the adapter, but is not optimised.
        (freeze_b, 4, "weights: lora_B has a gradient .* but the step did not move it"),
        (cut_gradients, 0, "gradient: that of the language model is 0, although .*: it is cut off"),
        (lose_weights, 4, "weights: lora_B has a gradient .* but the step did not move it"),
    ],
)
def test_weights_that_do_not_learn(
    sabotage: Sabotage, rank: int, complaint: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_training(monkeypatch, dpo, sabotage)
    with pytest.raises(UserError, match=f"^rl: step 1: {complaint}") as stopped:
        train(run, config_of(rank))
    assert "\n" not in str(stopped.value) and not (run / "rl/model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4])
def test_a_healthy_run_passes(rank: int, run: Path) -> None:
    rows = train(run, config_of(rank))
    assert rows
    for row in rows:
        checks = row["checks"]
        assert checks["compared"] >= 4 and checks["credit_off"] == 0 and checks["pixel_gap"] < 1e-4
        assert checks["gradient"] > 0 and checks["moved"] > 0


def test_an_empty_answer_before_a_later_picture_passes(tmp_path: Path) -> None:
    """The picture of the turn after it is still looked for in the row."""

    class FirstEmpty(TransformersPolicy):
        async def reply(self, transcript: Transcript, key: str) -> Completion:
            if key.split()[3:] == ["0"]:  # the one that the dialogue goes on with
                return cut_at_its_end([], [], transcript.renderer)
            return await super().reply(transcript, key)

    class ByLength:
        """The sandbox's tutor judges no turn without a picture."""

        immediate = True

        async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
            score = 1.0 + len(dialogue.turns[turn].assistant or "") % 10
            return Verdict({"safety": score, "usefulness": score, "faithfulness": 10.0})

    write_seeds(tmp_path, 6)
    shutil.copytree(SHIPPED, tmp_path / "sft/model")
    later = []
    for seed in drawn_for_rl(config := config_of(), tmp_path):
        first, second, *rest = seed.turns
        turns = [first, second.model_copy(update={"images": seed.images}), *rest]
        later.append(seed.model_copy(update={"images": [], "turns": turns}))
    write_atomic(tmp_path / "splits/rl.jsonl", to_jsonl(later))
    config.rl.micro_batch_size = 8
    dpo.prefer(
        config,
        tmp_path,
        ByLength(),
        policy_of=lambda student: FirstEmpty(student.model, Sampling(40, student.temperature)),
    )
    rows = [json.loads(row) for row in (tmp_path / "rl/metrics.jsonl").read_text().splitlines()]
    assert any(row["checks"]["with_pictures"] for row in rows)
    assert all((row["checks"]["pixel_gap"] or 0) < 1e-4 for row in rows)
