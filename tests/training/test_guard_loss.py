"""The guard in RL: what the loss is given is what was sampled and scored, and the weights learn from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer
from trl import GRPOTrainer

from broken import Sabotage, before_training, cut_gradients, freeze_b, lose_b, lose_weights
from family_run import config_of, write_seeds
from safer_steer.config import Config
from safer_steer.config.rl import Rollouts as Sampled
from safer_steer.dialogue import Dialogue
from safer_steer.episode import Verdict
from safer_steer.errors import EndpointError, UserError
from safer_steer.student.policy import Completion, PolicyOf, SampledStudent
from safer_steer.student.transcript import Transcript
from safer_steer.student.transformers_policy import in_process
from safer_steer.training import grpo
from safer_steer.training.rollouts import Rollouts
from safer_steer.training.trajectory import Return

Rows = dict[str, list[Any]]


class Varied:
    """A critic whose scores differ from trajectory to trajectory and turn to turn. It fails at these ids."""

    immediate = True

    def __init__(self, *fails: str) -> None:
        self.fails = fails

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        if dialogue.id in self.fails:
            raise EndpointError("status 500")
        score = 2 + 3 * (int(dialogue.id[-1]) % 2) + turn
        return Verdict(scores={"safety": score, "usefulness": score, "faithfulness": score})


def prepared(folder: Path, rank: int = 0, every: int = 1, **changes: Any) -> Config:
    """Two steps of two seeds with a picture each, which differ; two trajectories each."""
    write_seeds(folder, 1, 1)
    path = folder / "splits/rl.jsonl"
    rows = path.read_text().splitlines()
    path.write_text(rows[0] + "\n" + rows[1].replace("images/1.png", "images/2.png") + "\n")
    config = config_of("qwen2_5_vl", folder)
    config.student.check_every, config.student.lora_rank = every, rank
    config.rl = config.rl.model_copy(update={"steps": 2, **changes})
    return config


def train(
    config: Config,
    folder: Path,
    value: Return | None = None,
    policy_of: PolicyOf = in_process,
    critic: Varied | None = None,
) -> list[dict[str, Any]]:
    """The steps' metrics."""
    grpo.reinforce(config, folder, critic or Varied(), value=value, policy_of=policy_of)
    return [json.loads(row) for row in (folder / "rl/metrics.jsonl").read_text().splitlines()]


def move_masks(played: Rows) -> Rows:
    return played | {"env_mask": [[0, *mask[:-1]] for mask in played["env_mask"]]}


def lose_masks(played: Rows) -> Rows:
    return played | {"env_mask": [[1] * len(mask) for mask in played["env_mask"]]}


def roll_returns(played: Rows) -> Rows:
    values = played["trajectory_return"]
    return played | {"trajectory_return": [*values[1:], values[0]]}


def roll_returns_to_go(played: Rows) -> Rows:
    values = played["returns_to_go"]
    return played | {"returns_to_go": [*values[1:], values[0]]}


def credit_the_next_turn(played: Rows) -> Rows:
    return played | {"returns_to_go": [values[::-1] for values in played["returns_to_go"]]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "credit", "complaint"),
    [
        (move_masks, "trajectory", r"loss mask: the loss of dialogue 00000-\d{4} is taken over [1-9]"),
        (lose_masks, "trajectory", r"loss mask: .* is taken over \d+ tokens .* leaves out 0 that are"),
        (roll_returns, "trajectory", r"credit: the loss weighs the answers of dialogue 00000-\d{4} with "),
        (roll_returns_to_go, "turn", r"credit: the loss weighs the answers of dialogue 00000-\d{4} with "),
        (credit_the_next_turn, "turn", r"credit: the loss weighs the answers of dialogue 00000-\d{4} with "),
    ],
)
def test_rollouts_that_are_handed_on_as_something_else(
    sabotage: Callable[[Rows], Rows],
    credit: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play = Rollouts.__call__
    monkeypatch.setattr(Rollouts, "__call__", lambda self, *args: sabotage(play(self, *args)))
    with pytest.raises(UserError, match=f"^rl: step 1: {complaint}") as stopped:
        train(prepared(tmp_path, credit=credit), tmp_path)
    assert "\n" not in str(stopped.value) and not (tmp_path / "rl/model").exists()
    assert list((tmp_path / "rl/rollouts").iterdir()), "what was sampled and paid for is sound"


def roll_advantages(batch: dict[str, Any]) -> dict[str, Any]:
    return batch | {"advantages": batch["advantages"].roll(1, 0)}


def roll_masks(batch: dict[str, Any]) -> dict[str, Any]:
    return batch | {"tool_mask": batch["tool_mask"].roll(-1, 1)}


def swap_pictures(batch: dict[str, Any]) -> dict[str, Any]:
    """Between the first and the second seed's trajectories."""
    return batch | {"pixel_values": batch["pixel_values"].roll(len(batch["pixel_values"]) // 2, 0)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "credit", "micro", "complaint"),
    [
        (roll_advantages, "trajectory", 4, "credit: the loss weighs "),
        (roll_advantages, "turn", 2, "credit: the loss weighs "),
        (roll_masks, "turn", 4, "loss mask: the loss "),
        (swap_pictures, "trajectory", 2, r"pictures: dialogue 00000-\d{4} is trained with others than it"),
    ],
)
def test_a_batch_that_goes_wrong_inside_the_trainer(
    sabotage: Callable[[dict[str, Any]], dict[str, Any]],
    credit: str,
    micro: int,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = prepared(tmp_path, credit=credit, micro_batch_size=micro)

    def spoil(trainer: Trainer) -> None:
        make = trainer._generate_and_score_completions
        trainer._generate_and_score_completions = lambda rows: sabotage(make(rows))

    before_training(monkeypatch, grpo, spoil)
    with pytest.raises(UserError, match=f"^rl: step 1: {complaint}"):
        train(config, tmp_path)


def test_a_trainer_that_mixes_up_two_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline of a trajectory is another seed's."""

    def spoil(trainer: Trainer) -> None:
        rewards = trainer._calculate_rewards
        trainer._calculate_rewards = lambda *args: rewards(*args).roll(1, 0)

    before_training(monkeypatch, grpo, spoil)
    with pytest.raises(UserError, match=r"^rl: step 1: credit: "):
        train(prepared(tmp_path), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "rank", "complaint"),
    [
        (freeze_b, 4, "gradient: that of lora_B is 0, although .*: it is frozen"),
        (cut_gradients, 0, "gradient: that of the language model is 0, although .*: it is cut off"),
        (lose_weights, 0, "weights: the language model has a gradient .* but the step did not move it"),
        (lose_b, 4, "weights: lora_B has a gradient .* but the step did not move it"),
    ],
)
def test_weights_that_do_not_learn(
    sabotage: Sabotage, rank: int, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_training(monkeypatch, grpo, sabotage)
    with pytest.raises(UserError, match=f"^rl: step 1: {complaint}") as stopped:
        train(prepared(tmp_path, rank), tmp_path)
    assert "\n" not in str(stopped.value) and not (tmp_path / "rl/model").exists()


class Drifting:
    """An engine whose log-probabilities are off from the second step on."""

    def __init__(self, student: SampledStudent) -> None:
        self.inside, self.gap = in_process(student), 0.01 * (student.step or 0)

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        said = await self.inside.reply(transcript, key)
        said.logprobs = [logprob + self.gap for logprob in said.logprobs]
        return said


def test_an_engine_that_drifts_between_two_looks(tmp_path: Path) -> None:
    """`logprob_gap` is bounded at every step."""
    with pytest.raises(
        UserError,
        match=r"^rl: step 2: engine: its log-probabilities \(logprob_gap\) differ from the trainer's by 0.01"
        r" on average \(at most 0.0001 in float32\): the engine's weights are not those of this step",
    ):
        train(prepared(tmp_path, every=10), tmp_path, policy_of=Drifting)
    assert not list((tmp_path / "rl/rollouts").iterdir()), "what it sampled is not trained on later"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "changes"),
    [
        (4, {"beta": 0.1, "micro_batch_size": 1}),
        (0, {"credit": "turn", "micro_batch_size": 2, "rollouts": Sampled(importance_cap=2.0)}),
        (0, {"loss": "grpo", "tcsr": "running"}),
        (4, {"loss": "dapo", "micro_batch_size": 2}),
    ],
)
def test_a_healthy_run_passes(rank: int, changes: dict[str, Any], tmp_path: Path) -> None:
    for row in train(prepared(tmp_path, rank, **changes), tmp_path):
        checks = row["checks"]
        assert checks["compared"] == 4 and checks["credit_off"] < 1e-6 and checks["pixel_gap"] < 1e-4
        assert checks["gradient"] > 0 and checks["moved"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4])
def test_a_healthy_run_in_bfloat16_passes(rank: int, tmp_path: Path) -> None:
    config = prepared(tmp_path, rank, steps=1)
    config.student.dtype = "bfloat16"
    [row] = train(config, tmp_path)
    assert 1e-4 < row["logprob_gap"] < 0.05 and row["checks"]["moved"] > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "beta"), [(0, 0.1), (4, 0.0)])
def test_equal_returns_teach_nothing_and_pass(rank: int, beta: float, tmp_path: Path) -> None:
    """All advantages are 0, and so is the gradient, but for the KL's after a first step."""
    rows = train(prepared(tmp_path, rank, beta=beta), tmp_path, value=lambda dialogue: 1.0)
    assert rows[0]["grad_norm"] == rows[0]["checks"]["gradient"] == 0
    assert [row["checks"]["moved"] for row in rows] == [None, None]


def test_unscored_trajectories_have_no_credit_and_pass(tmp_path: Path) -> None:
    config = prepared(tmp_path, max_unscored=0.9)
    rows = train(config, tmp_path, critic=Varied("00000-0000", "00001-0003"))
    assert [row["unscored"] for row in rows] == [1, 1]
    assert all(row["checks"]["credit_off"] < 1e-6 for row in rows)


def test_large_returns_pass(tmp_path: Path) -> None:
    """The trainer computes in float32: a difference of 0.5 in 100,000 has few digits left."""
    rows = train(prepared(tmp_path), tmp_path, value=lambda d: 1e5 + 0.3 * float(d.id[-1]))
    assert all(0 < row["checks"]["credit_off"] < 1e-6 for row in rows)


def test_the_same_answers_with_opposite_advantages_have_no_gradient(tmp_path: Path) -> None:
    """Of one trajectory, twice in the step; the critic scored them differently."""

    class Alike:
        def __init__(self, student: SampledStudent) -> None:
            self.inside = in_process(student)

        async def reply(self, transcript: Transcript, key: str) -> Completion:
            return await self.inside.reply(transcript, "the same")

    rows = train(prepared(tmp_path, prompts_per_step=1, micro_batch_size=2), tmp_path, policy_of=Alike)
    assert all(row["grad_norm"] < 1e-6 for row in rows)


def test_a_step_from_the_journal_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played before a kill, and trained on after it."""
    config = prepared(tmp_path)

    def killed(trainer: GRPOTrainer, *args: Any) -> torch.Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GRPOTrainer, "_compute_loss", killed)
        train(config, tmp_path)
    rows = train(config, tmp_path)
    assert rows[0]["checks"]["engine_gap"] is None and rows[0]["checks"]["compared"] == 4
