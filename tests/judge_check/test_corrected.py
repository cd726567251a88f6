"""Rates corrected for the errors of a simulated judge."""

from __future__ import annotations

import numpy as np
import pytest

from safer_steer.judge_check.corrected import ENOUGH, Labelled, corrected_rate

RUNS = 300


def judged(
    random: np.random.Generator, rate: float, shape: tuple[int, ...], right: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """People's outcomes, and those of a judge with this sensitivity and specificity."""
    people = random.random(shape) < rate
    judge = np.where(people, random.random(shape) < right[0], random.random(shape) >= right[1])
    return people, judge


def labelled(people: np.ndarray, judge: np.ndarray) -> Labelled:
    kinds = ((1, 1), (1, 0), (0, 1), (0, 0))
    return Labelled(*(int(((people == a) & (judge == b)).sum()) for a, b in kinds))


@pytest.mark.parametrize(
    ("rate", "right", "suites", "dialogues", "labels"),
    [
        (0.5, (0.9, 0.85), 1, 200, 80),
        (0.05, (0.9, 0.85), 1, 200, 80),
        (0.95, (0.8, 0.9), 1, 120, 60),
        (0.6, (0.9, 0.7), 3, 60, 100),
        (0.02, (0.9, 0.95), 2, 120, 60),
    ],
)
@pytest.mark.parametrize("method", ["own labels", "errors everywhere"])
def test_the_interval_covers_the_truth(
    method: str, rate: float, right: tuple[float, float], suites: int, dialogues: int, labels: int
) -> None:
    random = np.random.default_rng(0)
    covered, plain = 0, 0
    for run in range(RUNS):
        people, judge = judged(random, rate, (suites, dialogues), right)
        counts = [(int(passed.sum()), dialogues) for passed in judge]
        if method == "own labels":
            chosen = random.permutation(judge.size)[:labels]
            marked = np.isin(np.arange(judge.size), chosen).reshape(judge.shape)
            own = [
                labelled(people[suite][marked[suite]], judge[suite][marked[suite]]) for suite in range(suites)
            ]
            found = corrected_rate(counts, own, Labelled(), seed=run)
        else:  # other models' dialogues, of which people pass another share
            elsewhere = labelled(*judged(random, 0.6, (labels,), right))
            found = corrected_rate(counts, [Labelled()] * suites, elsewhere, seed=run)
        assert found is not None and found["method"] == method and found["labels"] == labels
        covered += found["low"] <= 100 * rate <= found["high"]
        plain += abs(100 * float(judge.mean()) - found["value"]) < 1e-9
    assert covered / RUNS >= 0.93
    assert plain < RUNS / 4, "a correction"


@pytest.mark.parametrize(
    ("rates", "right", "sizes", "labels"),
    [
        ((0.95, 0.05), (0.9, 0.85), (600, 30), 50),
        ((0.95, 0.2), (0.9, 0.6), (600, 60), 30),
        ((0.9, 0.3), (0.9, 0.6), (900, 90), 50),
        ((0.99,), (0.9, 0.9), (300,), 40),
        ((0.01,), (0.9, 0.9), (300,), 40),
        ((0.99, 0.99, 0.99), (0.9, 0.9), (200, 200, 200), 30),
        ((0.97, 0.9, 0.5, 0.3, 0.05, 0.8), (0.9, 0.8), (40,) * 6, 10),
        ((0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4), (0.85, 0.75), (20, 40, 100, 300, 30, 50, 200, 60), 15),
    ],
)
def test_suites_of_unequal_sizes_and_rates(
    rates: tuple[float, ...], right: tuple[float, float], sizes: tuple[int, ...], labels: int
) -> None:
    """`labels` in each suite, as a sheet has them. The mean is over suites, whatever their size."""
    random = np.random.default_rng(1)
    covered, values, truth = 0, [], 100 * np.mean(rates)
    for _ in range(2 * RUNS):
        suites = [judged(random, rate, (size,), right) for rate, size in zip(rates, sizes, strict=True)]
        counts = [(int(judge.sum()), size) for (_, judge), size in zip(suites, sizes, strict=True)]
        own = [labelled(people[:labels], judge[:labels]) for people, judge in suites]
        found = corrected_rate(counts, own, Labelled())
        assert found is not None and found["method"] == "own labels"
        covered += found["low"] <= truth <= found["high"]
        values.append(found["value"])
    assert np.mean(values) == pytest.approx(truth, abs=1)
    assert covered / (2 * RUNS) >= 0.93


def test_a_suite_with_few_labels_is_not_corrected_by_them() -> None:
    own = [Labelled(40, 5, 5, 40), Labelled(4, 1, 0, 4)]
    found = corrected_rate([(50, 100), (50, 100)], own, Labelled(44, 6, 5, 44))
    assert found is not None and (found["method"], found["labels"]) == ("errors everywhere", 99)


def test_by_hand() -> None:
    # The judge passes 60 of 100. People pass 27 of the 30 labelled that it passes, 2 of the 20 that it fails.
    found = corrected_rate([(60, 100)], [Labelled(27, 2, 3, 18)], Labelled())
    assert found is not None and found["value"] == pytest.approx(60 * 27 / 30 + 40 * 2 / 20)
    # Elsewhere it passes 36 of 40 that people pass, fails 16 of 20 that they fail: (0.6 - 0.2) / (0.9 - 0.2).
    found = corrected_rate([(60, 100)], [Labelled(1, 0, 0, 1)], Labelled(36, 4, 4, 16))
    assert found is not None and found["value"] == pytest.approx(100 * 0.4 / 0.7)
    assert found["low"] < found["value"] < found["high"]


def test_more_labels_and_more_dialogues_narrow_it() -> None:
    def width(dialogues: int, labels: int) -> float:
        own = Labelled(*(labels * share // 10 for share in (5, 1, 1, 3)))
        found = corrected_rate([(dialogues // 2, dialogues)], [own], own)
        assert found is not None
        return float(found["high"] - found["low"])

    assert width(1000, 400) < width(1000, 100) < width(50, 100)


def test_what_cannot_be_corrected_is_none() -> None:
    few = Labelled(3, 0, 0, 2)
    assert few.n < ENOUGH
    assert corrected_rate([(5, 10)], [few], Labelled(9, 1, 0, 0)) is None, "people fail none"
    assert corrected_rate([(5, 10)], [few], Labelled(5, 5, 5, 5)) is None, "no better than chance"
    assert corrected_rate([(0, 0)], [few], Labelled(9, 1, 1, 9)) is None, "no dialogue"
    assert corrected_rate([], [few], Labelled(9, 1, 1, 9)) is None
