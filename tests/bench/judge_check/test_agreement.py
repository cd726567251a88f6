"""Agreement of two raters, by hand and by definition."""

from __future__ import annotations

from itertools import product
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safer_steer.bench.agreement import Pair, alpha, compared, quadratic_kappa

SCORES = st.integers(-3, 3)


def pairs_of(rows: list[tuple[str, int, int, int, int]]) -> list[Pair]:
    """From (dialogue, turn, length, the judge's harmlessness, a person's); helpfulness is 2 throughout."""
    return [
        Pair(dialogue, turn, length, scores(first), scores(second))
        for dialogue, turn, length, first, second in rows
    ]


def scores(harmlessness: int) -> dict[str, float]:
    return {"harmlessness": harmlessness, "helpfulness": 2}


@settings(deadline=None)
@given(st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=30))
def test_kappa_is_one_minus_observed_over_expected_disagreement(rated: list[tuple[int, int]]) -> None:
    first, second = [list(column) for column in zip(*rated, strict=True)]
    observed = fmean((a - b) ** 2 for a, b in rated)
    expected = fmean((a - b) ** 2 for a, b in product(first, second))  # as if rated independently
    found = quadratic_kappa(first, second)
    if expected == 0:
        assert found is None
    else:
        assert found == pytest.approx(1 - observed / expected)


def test_alpha_of_a_published_example() -> None:
    # Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section E: ordinal alpha is 0.815.
    nan = None
    ratings = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
    assert alpha(ratings) == pytest.approx(0.815, abs=5e-4)


def test_alpha_needs_two_scores_and_a_turn_that_two_have_rated() -> None:
    assert alpha([[1, 1, None], [1, 1, 3]]) is None
    assert alpha([[1, None], [None, 2]]) is None


def test_who_saw_a_failure_by_turn() -> None:
    found = compared(pairs_of([("a", 1, 9, 3, 3), ("a", 2, 9, 1, -3), ("b", 1, 9, 0, 3), ("b", 2, 9, 2, 1)]))
    assert (found["turns"], found["dialogues"]) == (4, 2)
    assert found["failures_by_turn"] == [
        {"turn": 1, "both": 0, "first_only": 1, "second_only": 0, "neither": 1},
        {"turn": 2, "both": 1, "first_only": 0, "second_only": 1, "neither": 0},
    ]
    harmless = found["harmlessness"]
    assert (harmless["exact"], harmless["within_one"]) == (25.0, 50.0)
    assert harmless["confusion"] == {"-3": {"1": 1}, "1": {"2": 1}, "3": {"0": 1, "3": 1}}
    assert found["helpfulness"]["kappa"] == {"value": None, "low": None, "high": None}


def test_few_dialogues_give_kappa_no_interval_and_bias_a_wide_one() -> None:
    rows = [(f"d{place % 19}", place, 9, 3, 3 - place % 2) for place in range(57)]
    harmless = compared(pairs_of(rows))["harmlessness"]
    assert harmless["kappa"]["value"] is not None and harmless["kappa"]["low"] is None
    assert compared(pairs_of([*rows, ("d19", 1, 9, 3, 3)]))["harmlessness"]["kappa"]["low"] is not None
    good = [(f"d{place}", 1, 9, 3, 3 - (place < 9)) for place in range(50)]
    assert compared(pairs_of(good))["harmlessness"]["kappa"]["low"] is None, "nine dialogues differ"
    assert compared(pairs_of(rows[:1]))["harmlessness"]["bias"]["low"] is None, "one dialogue"
    bias = compared(pairs_of([("a", 1, 9, 3, 3), ("b", 1, 9, 3, 2)]))["harmlessness"]["bias"]
    assert bias["low"] < 0 < bias["high"] - 1, "two dialogues, and Student's t with one degree of freedom"


def test_a_judge_that_likes_long_answers_is_seen() -> None:
    random = np.random.default_rng(0)
    rows = []
    for dialogue in range(60):
        for turn in (1, 2, 3):
            length, truth = int(random.integers(10, 1000)), int(random.integers(-1, 3))
            rows.append((f"d{dialogue}", turn, length, truth + (length > 700), truth))
    harmless = compared(pairs_of(rows))["harmlessness"]
    by = {entry["group"]: entry for entry in harmless["bias_by"]}
    assert list(by) == ["short answers", "medium answers", "long answers", "turn 1", "turn 2", "turn 3"]
    assert by["short answers"]["value"] == 0 and by["long answers"]["low"] > 0.7
    assert [by[f"turn {turn}"]["n"] for turn in (1, 2, 3)] == [60] * 3
    assert harmless["bias"]["low"] < harmless["bias"]["value"] < harmless["bias"]["high"]
    assert 0.5 < harmless["kappa"]["low"] < harmless["kappa"]["value"] < harmless["kappa"]["high"] < 1
