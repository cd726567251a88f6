"""Credit by turn: returns to go by hand, the estimator on a toy with exact gradients, a step of GRPO."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from math import factorial, prod
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import GRPOTrainer

from safer_steer.config import SHIPPED, Config
from safer_steer.config.rl import Reinforce
from safer_steer.dialogue import Format
from safer_steer.episode import Verdict
from safer_steer.errors import UnparsableError
from safer_steer.files.images import pictures_in
from safer_steer.rewards import FORMS, TCSRForm, group_advantages, tcsr
from safer_steer.training.credit import SETTLED, returns_to_go, turn_advantages
from safer_steer.training.grpo import reinforce
from safer_steer.training.trajectory import by_token
from safer_steer.training.tutor import TutorCritic
from student_parts import ask, drawn_for_rl, tiny_config, write_seeds

Group = Sequence[int]
Advantages = Callable[[Group], list[list[float]]]


def test_returns_to_go_by_hand() -> None:
    rewards = [0.8, 0.2, 0.5]  # min 0.2, mean 0.5; minima before each turn 0, 0.8, 0.2
    assert returns_to_go(rewards) == pytest.approx(
        [0.3 * 0.2 + 0.35, 0.3 * (0.2 - 0.8) + 0.35, 0.3 * (0.2 - 0.2) + 0.35]
    )
    assert returns_to_go(rewards, form="min") == pytest.approx([0.2, -0.6, 0.0])
    assert returns_to_go(rewards, form="mean") == pytest.approx([0.5, 0.5, 0.5])
    later = 0.3 * 0.2 + 0.7 * 0.5  # r~_2 and r~_3; r~_1 is 0.8
    assert returns_to_go(rewards, form="running") == pytest.approx([0.8 + 2 * later, 2 * later, later])
    assert set(SETTLED) == set(get_args(TCSRForm))


@settings(deadline=None)
@given(st.lists(st.floats(0, 2), min_size=1, max_size=10), st.floats(0, 1), st.sampled_from(sorted(FORMS)))
def test_the_first_turn_answers_for_the_whole_return_and_no_turn_for_what_was_settled_before(
    rewards: list[float], alpha: float, form: TCSRForm
) -> None:
    found = returns_to_go(rewards, alpha, form)
    assert len(found) == len(rewards) and found[0] == tcsr(rewards, alpha, form)
    # Two trajectories with the same rewards before a turn differ in that turn's G as their returns differ.
    other = [*rewards[:-1], rewards[-1] / 2]
    apart = returns_to_go(other, alpha, form)[-1] - found[-1]
    assert apart == pytest.approx(tcsr(other, alpha, form) - tcsr(rewards, alpha, form), abs=1e-9)


def test_a_turn_is_compared_with_the_others_that_reached_it() -> None:
    group = [[1.0, 4.0, 9.0], [2.0, 6.0], None, [6.0]]
    assert turn_advantages(group) == [
        [1 - 4, 4 - 6, 1 - 4],  # nobody else had a third turn: the whole trajectory's
        [2 - 3.5, 6 - 4],
        None,
        [6 - 1.5],
    ]
    assert turn_advantages([None, [0.7, 0.2]]) == [None, [0.0, 0.0]], "nothing to be compared with"
    assert turn_advantages([None, None]) == [None, None] and turn_advantages([]) == []


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(0, 20), min_size=2, max_size=6))
def test_with_one_turn_it_is_the_trajectorys_advantage_up_to_its_own_share_of_the_mean(
    returns: list[float | None],
) -> None:
    scored = sum(value is not None for value in returns)
    found = turn_advantages([None if value is None else [value] for value in returns])
    for own, whole in zip(found, group_advantages(returns), strict=True):
        assert (own is None) == (whole is None)
        if own is not None and whole is not None:
            assert own[0] * (scored - 1) / scored == pytest.approx(whole, abs=1e-9)


# A toy with exact gradients ---------------------------------------------------
#
# At every turn the policy helps (reward 1, the dialogue goes on), refuses (0.7, the dialogue ends: the policy
# influences the number of turns) or leaks (0.2, it goes on). At most 4 turns. There are 31 trajectories, so
# expectation and variance of an estimator over all groups of three are sums, without sampling.

TURNS, MEMBERS = 4, 3
HELP, REFUSE, LEAK = range(3)
REWARD = {HELP: 1.0, REFUSE: 0.7, LEAK: 0.2}


def dialogues(begun: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """All sequences of actions."""
    if len(begun) == TURNS or REFUSE in begun:
        return [begun]
    return [whole for action in REWARD for whole in dialogues((*begun, action))]


class Toy:
    """A softmax policy with a parameter for each turn, whether there was a leak, and action."""

    def __init__(self, seed: int) -> None:
        logits = np.random.default_rng(seed).normal(0, 0.7, (TURNS, 2, 3))
        logits[:, 0, LEAK] -= 1.5
        logits[:, :, REFUSE] -= 1.5
        policy = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        self.rewards = [[REWARD[action] for action in taken] for taken in dialogues()]
        self.chance: list[float] = []
        self.scores: list[np.ndarray] = []
        """The gradient of log pi of each turn of each trajectory, [turns, parameters]."""
        for taken in dialogues():
            score, chance = np.zeros((len(taken), *policy.shape)), 1.0
            for turn, action in enumerate(taken):
                leaked = int(LEAK in taken[:turn])
                chance *= policy[turn, leaked, action]
                score[turn, turn, leaked] = -policy[turn, leaked]
                score[turn, turn, leaked, action] += 1
            self.chance.append(chance)
            self.scores.append(score.reshape(len(taken), -1))

    def gradient(self, returns: Sequence[float]) -> np.ndarray:
        """The exact gradient of the expected return."""
        parts = zip(self.chance, self.scores, returns, strict=True)
        return sum(chance * score.sum(0) * value for chance, score, value in parts)

    def estimator(self, advantages: Advantages) -> tuple[np.ndarray, float]:
        """Exact expectation and total variance of the mean over a group of sum_t A_t grad log pi_t."""
        mean, square = np.zeros(self.scores[0].shape[1]), 0.0
        for group in combinations_with_replacement(range(len(self.chance)), MEMBERS):
            orders = factorial(MEMBERS) // prod(map(factorial, Counter(group).values()))
            chance = orders * prod(self.chance[member] for member in group)
            parts = zip(advantages(group), group, strict=True)
            found = sum(np.array(own) @ self.scores[member] for own, member in parts) / MEMBERS
            mean, square = mean + chance * found, square + chance * found @ found
        return mean, float(square - mean @ mean)


def of_trajectories(toy: Toy, returns: Sequence[float]) -> Advantages:
    """The trajectory's advantage, without its own share of the mean, so that both estimators have one
    scale."""

    def advantages(group: Group) -> list[list[float]]:
        whole = group_advantages([returns[member] for member in group])
        scale = MEMBERS / (MEMBERS - 1)
        parts = zip(whole, group, strict=True)
        return [[scale * (own or 0)] * len(toy.rewards[member]) for own, member in parts]

    return advantages


def off(mean: np.ndarray, true: np.ndarray) -> float:
    """The bias, as a share of the gradient's norm."""
    return float(np.linalg.norm(mean - true) / np.linalg.norm(true))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("form", "at_most"), [("min_mean", 0.84), ("running", 0.74), ("mean", 1.19), ("min", 1.15)]
)
def test_the_estimator_has_no_bias_and_for_tcsr_less_variance(
    form: TCSRForm, at_most: float, seed: int
) -> None:
    """A mean or a minimum alone has a little more: only some of the others are in a late turn's baseline."""
    toy = Toy(seed)
    returns = [tcsr(rewards, form=form) for rewards in toy.rewards]
    to_go = [returns_to_go(rewards, form=form) for rewards in toy.rewards]
    true = toy.gradient(returns)
    mean, variance = toy.estimator(lambda group: turn_advantages([to_go[member] for member in group]))
    plain, of_plain = toy.estimator(of_trajectories(toy, returns))
    assert off(mean, true) < 1e-12 and off(plain, true) < 1e-12
    assert variance / of_plain < at_most


@pytest.mark.parametrize("seed", [0, 1])
def test_centring_each_turns_reward_is_biased_where_the_policy_influences_the_number_of_turns(
    seed: int,
) -> None:
    toy = Toy(seed)

    def centred(group: Group) -> list[list[float]]:
        """On the scale of the others: a trajectory is not in its own mean."""
        rows = [toy.rewards[member] for member in group]
        found = []
        for place, row in enumerate(rows):
            apart = []
            for turn, value in enumerate(row):
                others = [other[turn] for other in [*rows[:place], *rows[place + 1 :]] if turn < len(other)]
                apart.append(value - fmean(others) if others else 0.0)
            found.append([sum(apart[turn:]) for turn in range(len(row))])
        return found

    true = toy.gradient([sum(rewards) for rewards in toy.rewards])
    assert off(toy.estimator(centred)[0], true) > 0.5
    to_go = [[sum(rewards[turn:]) for turn in range(len(rewards))] for rewards in toy.rewards]
    plain = of_trajectories(toy, [sum(rewards) for rewards in toy.rewards])
    mean, variance = toy.estimator(lambda group: turn_advantages([to_go[member] for member in group]))
    assert off(mean, true) < 1e-12 and variance < 0.86 * toy.estimator(plain)[1]


def test_no_advantage_where_no_other_came_is_biased() -> None:
    toy = Toy(0)
    to_go = [returns_to_go(rewards) for rewards in toy.rewards]

    def dropped(group: Group) -> list[list[float]]:
        rows = []
        for place, own in enumerate(turn_advantages([to_go[member] for member in group])):
            others = [*group[:place], *group[place + 1 :]]
            reached = max(len(to_go[member]) for member in others)
            rows.append([value if turn < reached else 0.0 for turn, value in enumerate(own or [])])
        return rows

    true = toy.gradient([tcsr(rewards) for rewards in toy.rewards])
    assert off(toy.estimator(dropped)[0], true) > 0.03


# In the trainer ---------------------------------------------------------------


def test_sampled_tokens_carry_their_turns_advantage_and_no_others() -> None:
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 0]])
    # The second answer of the first was cut off; the first of the last is nothing but the closing token.
    ends = [[1, 4], [0], [0, 3]]
    assert by_token([[0.5, -1.0], None, [2.0, 3.0]], ends, mask).tolist() == [
        [0.5, 0.5, 0.0, -1.0, 0.0],
        [0.0] * 5,
        [0.0, 0.0, 3.0, 3.0, 0.0],
    ]


def test_a_return_of_your_own_has_no_rewards_by_turn() -> None:
    with pytest.raises(ValueError, match="credit: turn needs a reward for every turn, and a:b gives one"):
        Reinforce(credit="turn", reward="a:b")


class Scoring:
    """The sandbox's tutor, whose scores also depend on trajectory and turn; one trajectory it cannot
    score."""

    immediate = True

    def __init__(self, folder: Path) -> None:
        self.tutor = TutorCritic(ask("tutor"), Format.THINKING_ANSWER, pictures_in(folder, 100_000))

    async def judge(self, dialogue: Any, turn: int, template: str | None) -> Verdict:
        place = int(dialogue.id[-1])
        if place == 1:
            raise UnparsableError("no verdict")
        verdict = await self.tutor.judge(dialogue, turn, template)
        verdict.scores = {"safety": 10 - place - turn, "usefulness": 8, "faithfulness": 5}
        return verdict


def config_of(credit: str) -> Config:
    return tiny_config(rl=tiny_config().rl.model_dump() | {"credit": credit, "steps": 1})


@pytest.mark.slow
def test_a_step_of_grpo_trains_each_turn_with_its_advantage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[dict[str, torch.Tensor]] = []
    loss = GRPOTrainer._compute_loss

    def losing(self: GRPOTrainer, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        trained.append(inputs)
        return loss(self, model, inputs)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", losing)
    write_seeds(tmp_path, 6)
    shutil.copytree(SHIPPED, tmp_path / "sft" / "model")
    config = config_of("turn")
    drawn_for_rl(config, tmp_path)
    assert reinforce(config, tmp_path, Scoring(tmp_path)).is_dir()
    (step,) = trained
    played = [json.loads(line) for line in (tmp_path / "rl/trajectories.jsonl").read_text().splitlines()]
    wanted: list[float] = []
    for start in (0, config.rl.group_size):
        group = played[start : start + config.rl.group_size]
        to_go = [
            None
            if row["meta"]["return"] is None
            else returns_to_go([turn["scores"]["reward"] for turn in row["turns"]])
            for row in group
        ]
        for row, own in zip(group, turn_advantages(to_go), strict=True):
            counts = [turn["meta"]["tokens"] for turn in row["turns"]]
            each = own if own is not None else [0.0] * len(counts)
            wanted += [value for value, count in zip(each, counts, strict=True) for _ in range(count)]
    sampled = (step["completion_mask"] * step["tool_mask"]).bool()
    assert step["advantages"].shape == sampled.shape and not step["advantages"][~sampled].any()
    assert sorted(step["advantages"][sampled].tolist()) == pytest.approx(sorted(wanted), abs=1e-6)
    assert len(set(wanted)) > config.rl.group_size
