"""Rewards pass through verl's one field unharmed, and what comes out are the project's own advantages."""

from __future__ import annotations

import pytest
import torch

from safer_steer.config.rl import Reinforce
from safer_steer.dialogue import Dialogue, Kind, StopReason, Turn
from safer_steer.errors import UserError
from safer_steer.rewards import group_advantages, tcsr
from safer_steer.training.credit import returns_to_go, turn_advantages
from safer_steer.training.trajectory import Trajectory, by_token
from safer_steer.training.verl_rewards import (
    ScoredShare,
    advantages,
    by_trajectory,
    by_turn,
    token_rewards,
    turns_of,
)

RL = Reinforce()


def trajectory(*rewards: float, value: float | None = 1.0, stop=StopReason.COMPLETED) -> Trajectory:
    """Turns of two sampled tokens and an end, with a user's token between them."""
    turns = [Turn(user="u", assistant="a", scores={"reward": reward}) for reward in rewards]
    mask = ([1, 1, 1, 0] * len(rewards))[:-1] or [0]
    ends = list(range(2, len(mask), 4)) or [0]
    dialogue = Dialogue(id="d", kind=Kind.BENIGN, turns=turns, stop=stop)
    return Trajectory(dialogue, value, [1], [7] * len(mask), [0.0] * len(mask), mask, ends)


def padded(*trajectories: Trajectory, by_turn: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """As verl keeps them: rewards and masks, [trajectories, tokens] and two more for padding."""
    width = 2 + max(len(one.mask) for one in trajectories)
    rows = [token_rewards(one, by_turn) for one in trajectories]
    fill = [row + [0.0] * (width - len(row)) for row in rows]
    return torch.tensor(fill), torch.tensor(
        [one.mask + [0] * (width - len(one.mask)) for one in trajectories]
    )


@pytest.mark.parametrize("rewards", [[0.5], [1.22, 0.1, 2.0], [0.0], [0.0, 0.7, 0.0]])
def test_every_reward_comes_out_as_it_went_in_also_zero(rewards):
    rows, _ = padded(trajectory(*rewards))
    found = turns_of(rows[0])
    assert found.rewards == pytest.approx(rewards, abs=1e-7) and found.ends == [2, 6, 10][: len(rewards)]
    assert [reward == 0 for reward in found.rewards] == [reward == 0 for reward in rewards]
    assert rows.sum().item() == pytest.approx(sum(rewards), abs=1e-6), "verl's own score stays the sum"


def test_no_return_is_neither_zero_nor_a_reward():
    unscored = trajectory(0.5, 0.5, value=None, stop=StopReason.UNSCORED)
    cut_off = trajectory(0.5, 0.5, value=None, stop=StopReason.CONTEXT_FULL)
    found = [turns_of(row) for row in padded(unscored, cut_off, trajectory(value=None))[0]]
    assert [turns.rewards for turns in found] == [None] * 3
    assert [turns.cut_off for turns in found] == [False, True, False]


@pytest.mark.parametrize("form", ["min_mean", "running", "mean", "min"])
def test_advantages_are_those_of_the_project(form):
    rl = Reinforce(tcsr=form, alpha=0.4)
    turns = [[0.5, 0.0, 1.0], [2.0], None, [0.0], [1.1, 1.1]]
    played = [trajectory(*(rewards or [1.0]), value=None if rewards is None else 1.0) for rewards in turns]
    rows, mask = padded(*played, *played[::-1])
    found = advantages(rows, mask, ["a"] * 5 + ["b"] * 5, rl, by_trajectory)
    wanted = group_advantages([None if r is None else tcsr(r, 0.4, form) for r in turns])
    for row, value in zip(range(10), [*wanted, *wanted[::-1]], strict=True):
        assert torch.allclose(found[row], mask[row] * (value or 0.0), atol=1e-6)
    assert wanted.count(None) == 1 and found.abs().max() > 0.1


def test_credit_by_turn_is_that_of_the_project():
    turns = [[0.5, 0.0, 1.0], [2.0], None, [0.3, 0.0], [1.1, 1.1]]
    played = [trajectory(*(rewards or [1.0]), value=None if rewards is None else 1.0) for rewards in turns]
    rows, mask = padded(*played)
    found = advantages(rows, mask, ["a"] * 5, RL, by_turn)
    group = [None if rewards is None else returns_to_go(rewards, RL.alpha, RL.tcsr) for rewards in turns]
    wanted = by_token(turn_advantages(group), [one.ends for one in played], mask)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert found[0, 0] != found[0, 4], "each turn has its own"


def test_a_return_of_ones_own_is_the_whole_trajectorys():
    values = [-2.0, 0.0, None, 3.0]
    played = [trajectory(0.5, 0.5, value=value) for value in values]
    rows, mask = padded(*played, by_turn=False)
    found = advantages(rows, mask, ["a"] * 4, RL, by_trajectory)
    wanted = group_advantages(values)
    assert torch.allclose(found, mask * torch.tensor([value or 0.0 for value in wanted])[:, None], atol=1e-6)


def test_a_turn_in_which_nothing_was_sampled_counts_too():
    silent = trajectory(0.2, 1.0)
    silent.mask[:3] = [0, 0, 0]
    rows, mask = padded(silent, trajectory(0.4, 0.4))
    found = advantages(rows, mask, ["a", "a"], RL, by_trajectory)
    wanted = group_advantages([tcsr([0.2, 1.0]), tcsr([0.4, 0.4])])
    assert found[0].max() == pytest.approx(wanted[0], abs=1e-6) and not found[0, :4].any()


def test_a_tutor_out_of_order_ends_the_run():
    lost = trajectory(0.5, value=None, stop=StopReason.UNSCORED)
    cut_off = trajectory(0.5, value=None, stop=StopReason.CONTEXT_FULL)
    fine, padding = trajectory(0.5), trajectory(value=None)
    shares = ScoredShare()
    for _ in range(4):
        shares.note(*padded(fine, fine, fine, cut_off, padding, padding), RL)
    shares.note(*padded(fine, lost, lost, lost, padding), RL)
    with pytest.raises(UserError, match="25% of the trajectories of the last 5 step"):
        shares.note(*padded(fine, lost, lost, fine, padding), RL)
    with pytest.raises(UserError, match="no trajectory of this step has a return"):
        ScoredShare().note(*padded(lost, cut_off), RL)
