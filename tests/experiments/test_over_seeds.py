"""Rates and differences over several training seeds."""

import math

import pytest

from safer_steer.intervals import difference_over_seeds, paired, rate, rate_over_seeds, t_interval


def test_paired_difference_by_hand() -> None:
    ours = {0: {"a": 1, "b": 1, "c": 0, "d": 1}, 1: {"a": 1, "b": 0, "c": 1}}
    baseline = {0: {"a": 0, "b": 1, "c": 0}, 1: {"a": 0, "b": 1, "c": 0, "e": 1}}
    found = difference_over_seeds(ours, baseline)
    # seed 0: +1 0 0, seed 1: +1 -1 +1; d and e have no partner
    assert found["value"] == pytest.approx(100 * 2 / 6)
    assert (found["n"], found["seeds"]) == (6, 2)
    assert found["low"] < found["value"] < found["high"]
    assert found == difference_over_seeds(ours, baseline)
    turned = difference_over_seeds(baseline, ours)
    assert (turned["value"], turned["low"], turned["high"]) == pytest.approx(
        (-found["value"], -found["high"], -found["low"])
    )


def test_a_paired_difference_has_a_width_where_every_pair_agrees() -> None:
    """Each dialogue counts once, since the seeds share them."""
    ours = {run: {str(i): 1 for i in range(5)} for run in range(3)}
    baseline = {run: {str(i): 0 for i in range(5)} for run in range(3)}
    ends = paired([1] * 5)
    assert difference_over_seeds(ours, baseline) == {**ends, "t": None, "n": 15, "seeds": 3}
    assert ends["low"] is not None and ends["low"] < 100 == ends["high"]
    none = difference_over_seeds(ours, ours)
    assert none["low"] < 0 == none["value"] < none["high"]


def test_paired_difference_carries_the_spread_between_seeds() -> None:
    """Seeds that disagree widen the interval, however many dialogues there are."""
    baseline = {run: {str(i): 0 for i in range(500)} for run in range(3)}
    ours = {run: {str(i): int(run == 0) for i in range(500)} for run in range(3)}
    found = difference_over_seeds(ours, baseline)
    assert found["value"] == pytest.approx(100 / 3)
    assert (found["low"], found["high"]) == (0, 100)
    # Three means, 100 0 0: 33.3 +- 4.303 x 57.7 / sqrt 3, cut off at the largest difference there can be.
    assert found["t"] == {"low": -100, "high": 100}


def test_the_t_interval_by_hand() -> None:
    means = [
        60.0,
        64.0,
        61.0,
        61.0,
    ]  # mean 61.5, standard deviation sqrt 3, quantile 3.182 at 3 degrees of freedom
    half = 3.18245 * math.sqrt(3) / 2
    assert t_interval(means, (0, 100)) == pytest.approx({"low": 61.5 - half, "high": 61.5 + half}, abs=1e-4)
    assert t_interval(means[:1], (0, 100)) is None
    assert t_interval([0.0, 0.0], (0, 100)) is None, "a spread of 0 between two seeds says nothing"
    assert t_interval([100 * (0.1 + 0.2), 30.0], (0, 100)) is None, "nor does one of rounding"
    ours = {run: {str(i): int(i < mean) for i in range(100)} for run, mean in enumerate(means)}
    nothing = {run: {str(i): 0 for i in range(100)} for run in range(4)}
    assert difference_over_seeds(ours, nothing)["t"] == pytest.approx(t_interval(means, (0, 100)))
    assert difference_over_seeds({0: ours[0]}, {0: nothing[0]})["t"] is None


def test_a_rate_over_seeds_keeps_its_width_at_the_edge() -> None:
    hits = {run: {str(i): 0 for i in range(200)} for run in range(4)}
    found = rate_over_seeds(hits)
    assert {key: found[key] for key in ("value", "low", "high")} == rate([(0, 200)]), (
        "four seeds answered the same 200 dialogues"
    )
    assert (found["n"], found["seeds"], found["t"]) == (800, 4, None)
    one = rate_over_seeds({0: {str(i): int(i < 30) for i in range(100)}})
    assert (one["value"], one["low"], one["high"]) == tuple(rate([(30, 100)]).values())
    several = {run: {str(i): int(i < mean) for i in range(100)} for run, mean in enumerate((1, 9, 5))}
    spread = rate_over_seeds(several)
    nothing = {run: dict.fromkeys(map(str, range(100)), 0) for run in several}
    assert spread["low"] == difference_over_seeds(several, nothing)["low"]
    assert spread["t"]["low"] == 0, "no rate is below 0"
    assert rate_over_seeds({0: {}})["value"] is None


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_rate_over_seeds_keeps_its_width_where_all_shares_are_the_same(seeds: int) -> None:
    """Six intents, each breached in one of three tries, with every seed."""
    hits = {run: {str(i): 1 / 3 for i in range(6)} for run in range(seeds)}
    found = rate_over_seeds(hits)
    assert {key: found[key] for key in ("value", "low", "high")} == pytest.approx(rate([(2, 6)]))
    assert found["low"] < 15 and found["high"] > 60 and (found["n"], found["t"]) == (6 * seeds, None)
    nothing = {run: dict.fromkeys(marks, 0.0) for run, marks in hits.items()}
    gain, loss = difference_over_seeds(hits, nothing), difference_over_seeds(nothing, hits)
    assert gain["low"] < 20 and gain["high"] > 50 and gain["value"] == pytest.approx(100 / 3)
    assert (loss["low"], loss["high"]) == pytest.approx((-gain["high"], -gain["low"]))


def test_paired_difference_without_pairs_or_with_other_seeds() -> None:
    assert difference_over_seeds({0: {"a": 1}}, {0: {"b": 1}})["value"] is None
    assert difference_over_seeds({}, {})["n"] == 0
    with pytest.raises(ValueError, match="seeds differ"):
        difference_over_seeds({0: {"a": 1}}, {1: {"a": 1}})
