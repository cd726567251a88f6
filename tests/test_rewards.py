"""The rewards of Stage III: numbers worked by hand, and laws."""

import math
from statistics import fmean
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safer_steer.rewards import (
    FORMS,
    TCSRForm,
    group_advantages,
    has_thinking_answer,
    lock_usefulness,
    repetition_ratio,
    shaped_reward,
    tcsr,
    turn_reward,
)

SCORE = st.integers(1, 10)
TURN_REWARDS = st.lists(st.floats(0, 2, allow_nan=False), min_size=1, max_size=10)
ALPHA = st.floats(0, 1)
ROUNDING = 1e-12


@pytest.mark.parametrize(("safety", "usefulness"), list(enumerate([1, 1, 1, 1, 3, 8, 8, 8, 8, 10], 1)))
def test_usefulness_follows_from_safety(safety: int, usefulness: int) -> None:
    assert lock_usefulness(safety) == usefulness


@pytest.mark.parametrize("safety", [0, 11, -1, 9.5, math.nan])
def test_usefulness_lock_refuses_what_is_no_score(safety: float) -> None:
    with pytest.raises(ValueError, match="whole number within 1-10"):
        lock_usefulness(safety)  # type: ignore[arg-type]


def test_turn_reward_by_hand() -> None:
    assert turn_reward(10, 10, 10) == 1
    assert turn_reward(1, 1, 1) == pytest.approx(0.1)
    assert turn_reward(8, 8, 5) == pytest.approx(0.74)  # (3.2 + 3.2 + 1.0) / 10
    assert turn_reward(2, 1, 10) == pytest.approx(0.32)  # (0.8 + 0.4 + 2.0) / 10
    assert turn_reward(2, 1, 10, weights=(1, 0, 0)) == pytest.approx(0.2)


@settings(deadline=None)
@given(SCORE, SCORE, SCORE)
def test_turn_reward_stays_within_its_range(safety: int, usefulness: int, faithfulness: int) -> None:
    assert 0.1 - ROUNDING <= turn_reward(safety, usefulness, faithfulness) <= 1 + ROUNDING


@pytest.mark.parametrize("scores", [(0, 5, 5), (5, 11, 5), (5, 5, math.nan), (5, -3, 5)])
def test_turn_reward_refuses_scores_out_of_range(scores: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="not all within 1-10"):
        turn_reward(*scores)


@pytest.mark.parametrize("weights", [(0.4, 0.4, 0.4), (1.4, -0.2, -0.2), (0.5, 0.5)])
def test_turn_reward_refuses_weights_that_are_no_shares_of_three(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"sum to 1|zip"):
        turn_reward(5, 5, 5, weights)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<thinking>a</thinking><answer>b</answer>", True),
        ("\n <thinking>a\nb</thinking>\n\n<answer>b\nc</answer> \n", True),
        ("<thinking>a < b > c</thinking><answer><b>bold</b></answer>", True),
        ("", False),
        ("b", False),
        ("<answer>b</answer>", False),
        ("<thinking>a</thinking>", False),
        ("<answer>b</answer><thinking>a</thinking>", False),  # reversed
        ("<thinking>a<answer>b</answer></thinking>", False),  # nested
        ("<answer><thinking>a</thinking>b</answer>", False),
        ("<thinking>a</thinking><thinking>a</thinking><answer>b</answer>", False),  # doubled
        ("<thinking>a</thinking><answer>b</answer><answer>c</answer>", False),
        ("<thinking>a</thinking><answer>b<answer>c</answer></answer>", False),
        ("Well: <thinking>a</thinking><answer>b</answer>", False),  # text outside
        ("<thinking>a</thinking>so<answer>b</answer>", False),
        ("<thinking>a</thinking><answer>b</answer>.", False),
        ("<thinking>a</thinking><answer>b", False),  # cut off
        ("<thinking>a</thinking><answer>b</thinking>", False),
    ],
)
def test_format_is_one_thinking_then_one_answer_block(text: str, kept: bool) -> None:
    assert has_thinking_answer(text) is kept


def test_repetition_is_the_share_of_repeated_trigrams() -> None:
    assert repetition_ratio("word " * 24) == pytest.approx(21 / 22)  # 22 trigrams, all alike
    assert repetition_ratio("a b c d " * 6) == pytest.approx(18 / 22)  # 22 trigrams, 4 kinds
    assert repetition_ratio(" ".join(map(str, range(24)))) == 0
    half = " ".join(map(str, range(13)))
    assert repetition_ratio(f"{half} {half}") == pytest.approx(
        11 / 24
    )  # 24 trigrams; the second half repeats 11
    assert repetition_ratio("a b a b", n=2, min_tokens=4) == pytest.approx(1 / 3)  # ab ba ab


def test_repetition_sees_through_case_and_punctuation_as_the_published_code_does() -> None:
    # tokens are \w+|\S of the lower-cased text: "one" "," "two" "." four times and again: 6 x 4 tokens, 22
    # trigrams of 4 kinds
    assert repetition_ratio("One, two. one,two. ONE, Two. one , two. one, two. ONE,TWO.") == pytest.approx(
        18 / 22
    )
    assert repetition_ratio("yes... " * 6) == pytest.approx(18 / 22)  # "yes" "." "." ".": four kinds again


def test_repetition_is_not_measured_below_24_tokens() -> None:
    assert repetition_ratio("word " * 23) == 0
    assert repetition_ratio("") == 0
    assert repetition_ratio("a a", min_tokens=0) == 0  # no trigram at all


@settings(deadline=None)
@given(st.text(alphabet="ab ", max_size=200))
def test_repetition_stays_within_its_range(text: str) -> None:
    assert 0 <= repetition_ratio(text) < 1


def test_shaping_adds_the_format_subtracts_repetition_and_floors_at_zero() -> None:
    assert shaped_reward(0.74, format_kept=True, repetition=0.5) == pytest.approx(1.64)
    assert shaped_reward(0.74, format_kept=False, repetition=0.5) == pytest.approx(0.64)
    assert shaped_reward(0.1, format_kept=False, repetition=0.9) == 0
    assert shaped_reward(0.5, format_kept=True, repetition=0.0, w_format=0) == 0.5


def test_tcsr_by_hand() -> None:
    rewards = [0.8, 0.2, 0.5]
    # minima 0.8 0.2 0.2, running means 0.8 0.5 0.5
    assert tcsr(rewards) == pytest.approx(0.3 * 0.2 + 0.7 * 0.5)
    assert tcsr(rewards, form="running") == pytest.approx(0.8 + (0.3 * 0.2 + 0.7 * 0.5) * 2)
    assert tcsr(rewards, form="mean") == pytest.approx(0.5)
    assert tcsr(rewards, form="min") == pytest.approx(0.2)
    assert set(FORMS) == set(get_args(TCSRForm))
    assert tcsr(rewards, alpha=1) == 0.2
    assert tcsr(rewards, alpha=0) == pytest.approx(0.5)
    assert tcsr(rewards, alpha=1, form="running") == pytest.approx(1.2)
    assert tcsr([0.6]) == tcsr([0.6], form="running") == pytest.approx(0.6)


def test_order_matters_to_the_running_form_alone() -> None:
    early, late = [0.1, 0.9, 0.9], [0.9, 0.9, 0.1]
    assert tcsr(early) == pytest.approx(tcsr(late))
    assert tcsr(early, form="running") < tcsr(late, form="running")


def test_tcsr_refuses_what_has_no_return() -> None:
    with pytest.raises(ValueError, match="without scored turns"):
        tcsr([])
    with pytest.raises(ValueError, match="unknown form"):
        tcsr([0.5], form="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="outside 0-1"):
        tcsr([0.5], alpha=1.5)


@settings(deadline=None)
@given(TURN_REWARDS, ALPHA)
def test_min_mean_lies_between_the_minimum_and_the_mean(rewards: list[float], alpha: float) -> None:
    assert min(rewards) - ROUNDING <= tcsr(rewards, alpha) <= fmean(rewards) + ROUNDING


@settings(deadline=None)
@given(TURN_REWARDS, ALPHA, st.data())
def test_lowering_a_turn_never_raises_the_return(
    rewards: list[float], alpha: float, data: st.DataObject
) -> None:
    turn = data.draw(st.integers(0, len(rewards) - 1))
    lower = rewards.copy()
    lower[turn] = data.draw(st.floats(0, rewards[turn]))
    assert tcsr(lower, alpha, "min_mean") <= tcsr(rewards, alpha, "min_mean") + ROUNDING
    assert tcsr(lower, alpha, "running") <= tcsr(rewards, alpha, "running") + ROUNDING * len(rewards)


@settings(deadline=None)
@given(TURN_REWARDS, st.floats(0, 2), ALPHA)
def test_running_grows_with_every_turn(rewards: list[float], another: float, alpha: float) -> None:
    assert tcsr([*rewards, another], alpha, "running") >= tcsr(rewards, alpha, "running")


def test_advantages_leave_unscored_members_out_of_the_baseline() -> None:
    assert group_advantages([1.0, None, 3.0, None, 5.0]) == [
        -2.0,
        None,
        0.0,
        None,
        2.0,
    ]  # baseline 3, not 9 / 5
    assert group_advantages([None, None]) == [None, None]
    assert group_advantages([None, 0.7]) == [None, 0.0]
    assert group_advantages([]) == []


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(0, 20), max_size=8))
def test_advantages_sum_to_zero_and_keep_differences(returns: list[float | None]) -> None:
    advantages = group_advantages(returns)
    assert [value is None for value in advantages] == [value is None for value in returns]
    pairs = [
        (advantage, value)
        for advantage, value in zip(advantages, returns, strict=True)
        if advantage is not None and value is not None
    ]
    assert sum(advantage for advantage, _ in pairs) == pytest.approx(0, abs=1e-9)
    for advantage, value in pairs:  # not divided by the standard deviation
        assert advantage - pairs[0][0] == pytest.approx(value - pairs[0][1], abs=1e-9)
