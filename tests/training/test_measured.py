"""The engine's log-probabilities beside the trainer's: what is noted of each step, and importance weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from safer_steer.dialogue import Format
from safer_steer.files.images import pictures_in
from safer_steer.student.policy import Completion, SampledStudent
from safer_steer.student.transcript import Transcript
from safer_steer.student.transformers_policy import in_process
from safer_steer.training.grpo import reinforce
from safer_steer.training.tutor import TutorCritic
from student_parts import ask, drawn_for_rl, tiny_config, write_seeds


class Off:
    """Samples as it should, and gives log-probabilities that are off by `gap`."""

    def __init__(self, student: SampledStudent, gap: float) -> None:
        self.inside, self.gap = in_process(student), gap

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        said = await self.inside.reply(transcript, key)
        said.logprobs = [logprob + self.gap for logprob in said.logprobs]
        return said


def step(folder: Path, gap: float, cap: float | None = None) -> dict[str, float]:
    """The metrics of one step with an engine that is off by `gap`."""
    write_seeds(folder)
    rl = tiny_config().rl.model_dump() | {"steps": 1, "start_from": "base", "beta": 0.0}
    config = tiny_config(rl=rl | {"rollouts": {"importance_cap": cap}, "micro_batch_size": 3})
    config.student.check_every = 0  # which would stop a run whose engine is off
    drawn_for_rl(config, folder)
    tutor = TutorCritic(ask("tutor"), Format.THINKING_ANSWER, pictures_in(folder, 100_000))
    reinforce(config, folder, tutor, policy_of=lambda student: Off(student, gap))
    [row] = (folder / "rl" / "metrics.jsonl").read_text().splitlines()
    found: dict[str, float] = json.loads(row)
    return found


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    """Of an engine that is not off."""
    return step(tmp_path_factory.mktemp("fine"), 0.0)


def test_a_step_says_how_far_engine_and_trainer_are_apart(fine, tmp_path):
    off = step(tmp_path, -0.5)
    assert fine["logprob_gap_max"] < 1e-5
    assert fine["importance_ratio"] == pytest.approx(1, abs=1e-5)
    assert off["logprob_gap"] == pytest.approx(0.5, abs=1e-5)
    assert off["logprob_gap_max"] == pytest.approx(0.5, abs=1e-4)
    assert off["importance_ratio"] == pytest.approx(math.exp(0.5), abs=1e-3)
    assert off["importance_ess"] == pytest.approx(1, abs=1e-4), "all tokens have one weight"
    assert off["grad_norm"] == pytest.approx(fine["grad_norm"], rel=1e-3), "noted, not corrected"


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "weight"), [(0.5, math.exp(-0.5)), (-1.5, 2.0)])
def test_importance_weights_scale_the_loss_up_to_their_cap(fine, tmp_path, gap, weight):
    norm = step(tmp_path, gap, cap=2.0)["grad_norm"]
    assert norm == pytest.approx(weight * fine["grad_norm"], rel=1e-3)
