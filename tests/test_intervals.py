"""How often the 95 % intervals contain the true value, with fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit
from scipy.stats import binom

from safer_steer.intervals import (
    detectable,
    difference_over_seeds,
    of_groups,
    paired,
    rate,
    t_interval,
    unpaired,
)


@pytest.mark.parametrize("n", [10, 24, 60, 200])
def test_the_interval_of_a_share_covers_it(n: int) -> None:
    """Exact: the probability of all counts whose interval has the share. It jumps with it, since counts
    are whole."""
    ends = [rate([(passed, n)]) for passed in range(n + 1)]
    low, high = (np.array([one[end] for one in ends]) for end in ("low", "high"))
    covered = [
        binom.pmf(np.arange(n + 1), n, share)[(low <= 100 * share) & (100 * share <= high)].sum()
        for share in np.linspace(0.001, 0.999, 999)
    ]
    assert np.mean(covered) >= 0.945 and min(covered) >= 0.86


@pytest.mark.parametrize("n", [20, 40, 200])
@pytest.mark.parametrize(
    ("first", "second"), [(0.02, 0.02), (0.97, 0.9), (0.5, 0.5), (1.0, 0.95), (0.05, 0.5)]
)
def test_the_interval_of_a_difference_covers_it(n: int, first: float, second: float) -> None:
    """Of the same cases, with outcomes that hang together and with shares of three tries; of others."""
    random, runs, truth = np.random.default_rng(0), 300, 100 * (first - second)
    covered = np.zeros(3)
    for _ in range(runs):
        luck = random.random(n)
        together = (luck < first).astype(int) - (
            np.where(random.random(n) < 0.5, luck, random.random(n)) < second
        )
        shares = random.binomial(3, first, n) / 3 - (random.random(n) < second)
        counts = ((int(random.binomial(n, share)), n) for share in (first, second))
        found = (paired(together.tolist()), paired(shares.tolist()), unpaired(*counts, resamples=1000))
        covered += [one["low"] - 1e-9 <= truth <= one["high"] + 1e-9 for one in found]
    assert (covered / runs >= 0.91).all(), covered / runs


@pytest.mark.parametrize("n", [12, 60])
@pytest.mark.parametrize("chances", [((0.05, 0.02),) * 2, ((0.3, 0.1),) * 5, ((0, 0), (0.02, 0), (0.9, 0))])
def test_the_interval_of_a_mean_difference_over_suites_covers_it(
    n: int, chances: tuple[tuple[float, float], ...]
) -> None:
    """`chances`: of each suite, of a script gained and of one lost."""
    random, held, truth = np.random.default_rng(n), 0, 100 * np.mean([one - other for one, other in chances])
    for _ in range(1000):
        suites = []
        for gained, lost in chances:
            ups, downs, same = map(int, random.multinomial(n, [gained, lost, 1 - gained - lost]))
            suites.append([1] * ups + [-1] * downs + [0] * same)
        found = paired(*suites)
        held += found["low"] - 1e-9 <= truth <= found["high"] + 1e-9
    assert held >= 930, held


def test_a_difference_by_hand() -> None:
    # Two of five cases gained, one lost, and one more of each: (3 - 2) / 7, variance 5 / 7 - 1 / 49.
    half = 1.959964 * ((5 / 7 - 1 / 49) / 7) ** 0.5
    assert paired([1, 1, -1, 0, 0]) == pytest.approx(
        {"value": 20, "low": 100 * (1 / 7 - half), "high": 100 * (1 / 7 + half)}, abs=1e-4
    )
    assert paired([2.0, 2.0])["high"] == 200, "a difference of differences"
    # Two suites, one case more of each: means 1 / 2 and 0, variances (2 / 3 - 1 / 9) / 3 and 1 / 2 / 2.
    half, middle = 1.959964 * ((2 / 3 - 1 / 9) / 3 + 1 / 4) ** 0.5 / 2, 1 / 6
    # And as one suite of 4 / (1 / 2 + 1) = 8 / 3 cases with the mean and the mean square 1 / 4.
    as_one, centre = 1.959964 * ((4 / 7 - 1 / 49) / (14 / 3)) ** 0.5, 1 / 7
    low, high = min(middle - half, centre - as_one), max(middle + half, centre + as_one)
    assert paired([1, 0], [0]) == pytest.approx({"value": 25, "low": 100 * low, "high": 100 * high}, abs=1e-4)
    assert paired([1], [])["value"] is None
    assert unpaired((0, 0), (1, 2)) == paired([]) == {"value": None, "low": None, "high": None}
    assert unpaired((3, 9), (1, 9), seed=1) == unpaired((3, 9), (1, 9), seed=1)


@pytest.mark.parametrize("seeds", [3, 5, 12])
def test_a_true_difference_of_the_detectable_size_is_told_in_four_of_five_experiments(seeds: int) -> None:
    spread, random = 4.0, np.random.default_rng(seeds)
    half = float(stdtrit(seeds - 1, 0.975)) * spread / seeds**0.5
    found = {"low": -0.1, "high": 0.1, "t": {"low": -half, "high": half}, "n": 9_000 * seeds, "seeds": seeds}
    least = detectable(found)
    assert least
    drawn = random.normal(least, spread, size=(20_000, seeds))
    halves = float(stdtrit(seeds - 1, 0.975)) * drawn.std(axis=1, ddof=1) / seeds**0.5
    assert np.mean(drawn.mean(axis=1) > halves) == pytest.approx(0.8, abs=0.01)


def test_what_is_detectable_follows_the_wider_interval() -> None:
    narrow, wide = {"low": -1.0, "high": 1.0}, {"low": -9.0, "high": 9.0}
    of = {"n": 5 * 2000, "seeds": 5}
    assert detectable(wide | {"t": narrow} | of) == pytest.approx(9 / 1.96 * 2.80, rel=0.01)
    assert detectable(narrow | {"t": wide} | of) > 9
    assert detectable(narrow | {"t": None} | of) is None
    assert detectable({"low": None, "t": wide} | of) is None
    whole = {"low": -100.0, "high": 100.0, "value": 0.0}
    assert detectable(whole | {"t": whole} | of) is None, "no true difference is as large as that"


def test_what_was_cut_off_at_100_points_counts_for_what_is_detectable() -> None:
    def points(*means: float) -> float | None:
        found = {"low": 59.0, "high": 61.0, "value": sum(means) / 3, "n": 3000, "seeds": 3}
        cut, whole = (detectable(found | {"t": t_interval(means, (-end, end))}) for end in (100, 1000))
        assert cut == (whole and pytest.approx(whole))
        return cut

    assert points(80, 80, 20) is None, "it takes 113 points"
    assert (points(95, 90, 70) or 0) > 40 and (points(-95, -90, -70) or 0) > 40


def test_fewer_pairs_than_seeds_are_no_error() -> None:
    ours = {seed: {str(place): float(place < 2) for place in range(seed, 3)} for seed in range(3)}
    found = difference_over_seeds(ours, {seed: {"2": 0.5, "1": 0.0} for seed in ours})
    assert found["n"] == 5 and detectable(found | {"n": 2}) is None


@pytest.mark.parametrize(("suites", "n"), [(10, 1), (10, 2), (13, 1), (5, 4)])
def test_a_difference_over_small_suites_is_told_as_seldom_as_it_says(suites: int, n: int) -> None:
    """Half of the cases are won and half are lost. By each suite's own spread, one case in each of ten suites
    told a difference in 35 of 100 benches."""
    random = np.random.default_rng(suites * n)
    told = 0
    for _ in range(1000):
        found = paired(*random.choice([-1.0, 1.0], size=(suites, n)).tolist())
        told += found["low"] > 0 or found["high"] < 0
    assert told / 1000 < 0.13


@pytest.mark.parametrize("dialogues", [1, 3, 8, 12])
def test_a_difference_over_seeds_of_few_dialogues_is_told_as_seldom_as_it_says(dialogues: int) -> None:
    """Shares of dialogues that differ between the arms, without a difference on average."""
    random, told = np.random.default_rng(dialogues), 0
    for _ in range(200):
        effect = random.normal(0, 0.3, dialogues)
        arms = []
        for half in (effect / 2, -effect / 2):
            marks = np.clip(0.5 + half + random.normal(0, 0.08, (3, dialogues)), 0, 1)
            arms.append({seed: dict(enumerate(row.tolist())) for seed, row in enumerate(marks)})
        found = difference_over_seeds(*arms, resamples=200)
        ends = [found, found["t"]]
        told += all(one["low"] > 0 for one in ends) or all(one["high"] < 0 for one in ends)
    assert told / 200 < 0.05


def test_one_pair_that_differs_does_not_make_an_experiment_more_powerful_than_none() -> None:
    """Of 12 seeds x 400 dialogues: the bootstrap's interval is then 0.1 points long, that without any 1.4."""
    same = {seed: {str(place): 1.0 for place in range(400)} for seed in range(12)}
    one = {seed: marks | ({"7": 0.0} if seed == 3 else {}) for seed, marks in same.items()}
    found = difference_over_seeds(one, same)
    assert found["high"] - found["low"] < 0.2
    assert detectable(found) == pytest.approx(0.98, abs=0.01)


def test_an_interval_of_few_groups_is_student_s_and_none_of_equal_ones() -> None:
    found = of_groups([[0.0, 2.0], [1.0, 5.0]])  # means 1 and 3, so the standard error is 1
    assert found["value"] == 2 and found["high"] - 2 == pytest.approx(12.706, abs=1e-3)
    assert of_groups([[0.3, 0.1], [0.2]])["low"] is None, "equal means"
    assert of_groups([[0.3, 0.1]])["low"] is None, "one group"
