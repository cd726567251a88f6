"""A step of GRPO with a tiny model of each family: trainer and rollouts agree on log-probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from family_run import Scoring, config_of, write_seeds
from safer_steer.errors import UserError
from safer_steer.student.load import load_student
from safer_steer.training.grpo import reinforce
from safer_steer.training.rollouts import Rollouts
from tiny_families import FAMILIES, moved


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_grpo(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: dict[str, Any] = {}
    scored: list[dict[str, torch.Tensor]] = []
    play, loss, score = (
        Rollouts.__call__,
        GRPOTrainer._compute_loss,
        GRPOTrainer._get_per_token_logps_and_entropies,
    )

    def playing(self: Rollouts, prompts: Any, trainer: GRPOTrainer) -> dict[str, Any]:
        played.update(play(self, prompts, trainer))
        return played

    def losing(self: GRPOTrainer, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        scored.append(inputs)
        return loss(self, model, inputs)

    def scoring(self: GRPOTrainer, *args: Any, **options: Any) -> Any:
        found = score(self, *args, **options)
        scored[-1]["logps"] = found[0].detach()
        return found

    monkeypatch.setattr(Rollouts, "__call__", playing)
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", losing)
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", scoring)
    write_seeds(tmp_path, 1, 2)
    config = config_of(family, tmp_path)
    model = reinforce(config, tmp_path, Scoring(), value=lambda dialogue: float(dialogue.id[-1]))
    speaking, seeing = moved(*(load_student(config.student, path).model for path in (None, model)))
    assert len(speaking) > 10 and not seeing
    (step,) = scored
    rollouts = {}
    for ids, logprobs, mask in zip(
        played["completion_ids"], played["logprobs"], played["env_mask"], strict=True
    ):
        rollouts[tuple(ids)] = [logprob for logprob, kept in zip(logprobs, mask, strict=True) if kept]
    assert len(rollouts) == 4
    for row in range(4):
        present = step["completion_mask"][row].bool()
        trained = step["logps"][row][present & step["tool_mask"][row].bool()].tolist()
        rollout = rollouts[tuple(step["completion_ids"][row][present].tolist())]
        assert trained == pytest.approx(rollout, abs=1e-5)


def test_pictures_that_the_trainer_would_mix_up_are_refused(tmp_path: Path) -> None:
    write_seeds(tmp_path, 0, 2)
    with pytest.raises(UserError, match=r"^rl: with this student, scripts without a picture cannot be mixed"):
        reinforce(config_of("smolvlm", tmp_path), tmp_path, Scoring())
