"""Rates corrected for the errors of a simulated judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import fisher_exact

from safer_steer.bench.judge_check.corrected import Labelled, corrected_rate, errors_differ
from safer_steer.bench.judge_check.labels import Label, needed
from safer_steer.bench.judge_check.measured import against_people
from safer_steer.bench.judge_check.played import played_in
from safer_steer.dialogue import Dialogue, Format, Kind, StopReason, Turn, to_jsonl
from safer_steer.files.store import write_atomic

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
    ("rates", "right", "sizes", "labels"),
    [
        ((0.5,), (0.9, 0.85), (200,), 80),
        ((0.05,), (0.9, 0.85), (200,), 10),
        ((0.95,), (0.8, 0.9), (120,), 10),
        ((0.6, 0.6, 0.6), (0.9, 0.7), (60, 60, 60), 30),
        ((0.02, 0.02), (0.9, 0.95), (120, 120), 5),
        ((0.99,) * 8, (0.8, 0.9), (100,) * 8, 4),
        ((0.02,) * 8, (0.9, 0.6), (100,) * 8, 4),
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
        found = corrected_rate(counts, own)
        assert found["in_each"] == min(labels, *sizes)
        covered += found["low"] <= truth <= found["high"]
        values.append(found["value"])
    assert np.mean(values) == pytest.approx(truth, abs=1)
    assert covered / (2 * RUNS) >= 0.93


def test_models_of_whose_failures_the_judge_misses_unlike_shares_are_compared_aright() -> None:
    """Three models and eight suites with `--sample 100`, so four labels in each. The judge's specificity is
    0.95 for one model and 0.7 for the others. With its errors pooled over models, the difference of 40 points
    became 57, and 45 % of the intervals held the truth."""
    random, runs = np.random.default_rng(0), 200
    means, rights = (0.5, 0.1, 0.5), ((0.95, 0.7), (0.95, 0.95), (0.95, 0.7))
    covered, shown, gaps = 0, 0, []
    for _ in range(runs):
        values = []
        for mean, right in zip(means, rights, strict=True):
            suites = [judged(random, mean + aside, (60,), right) for aside in np.linspace(-0.1, 0.1, 8)]
            counts = [(int(judge.sum()), 60) for _, judge in suites]
            own = [labelled(people[:4], judge[:4]) for people, judge in suites]
            found = corrected_rate(counts, own)
            alone = corrected_rate(counts[:1], own[:1])
            assert alone["value"] is None and (alone["in_each"], alone["needed"]) == (4, 10)
            shown += 1
            covered += found["low"] <= 100 * mean <= found["high"]
            values.append(found["value"])
        gaps.append(values[0] - values[1])
    assert shown == 3 * runs and covered / shown >= 0.93
    assert np.mean(gaps) == pytest.approx(40, abs=2)


def test_a_rate_with_few_labels_in_a_suite_has_none() -> None:
    own = [Labelled(40, 5, 5, 40), Labelled(3, 1, 0, 0)]
    nothing = {"value": None, "low": None, "high": None}
    assert corrected_rate([(50, 100)] * 2, own) == {**nothing, "labels": 94, "in_each": 4, "needed": 5}
    assert corrected_rate([(50, 100)], own[1:]) == {**nothing, "labels": 4, "in_each": 4, "needed": 10}
    assert corrected_rate([(50, 100)], own[:1])["value"] is not None
    assert corrected_rate([(50, 100)], [Labelled()])["value"] is None
    assert [needed(suites) for suites in (1, 2, 3, 8)] == [10, 5, 4, 4]


def test_by_hand() -> None:
    # The judge passes 60 of 100. People pass 27 of the 30 labelled that it passes, 2 of the 20 that it fails.
    found = corrected_rate([(60, 100)], [Labelled(27, 2, 3, 18)])
    assert found["value"] == pytest.approx(60 * 27 / 30 + 40 * 2 / 20)
    assert found["low"] < found["value"] < found["high"]
    # No label of the other suite's dialogues that it fails: the share is that of the first suite's.
    found = corrected_rate([(60, 100), (80, 100)], [Labelled(27, 2, 3, 18), Labelled(9, 0, 1, 0)])
    assert found["value"] == pytest.approx((58 + 80 * 9 / 10 + 20 * 2 / 20) / 2)


def test_more_labels_and_more_dialogues_narrow_it() -> None:
    def width(dialogues: int, labels: int) -> float:
        own = Labelled(*(labels * share // 10 for share in (5, 1, 1, 3)))
        found = corrected_rate([(dialogues // 2, dialogues)], [own])
        return float(found["high"] - found["low"])

    assert width(1000, 400) < width(1000, 100) < width(50, 100)


def test_whether_the_judge_errs_alike_on_all_models() -> None:
    """Fisher's exact test over the dialogues that people pass, and over those that they fail."""
    alike, other = Labelled(38, 2, 4, 36), Labelled(38, 2, 14, 26)
    two = errors_differ([alike, other])
    assert two == pytest.approx({"sensitivity": 1, "specificity": fisher_exact([[36, 4], [26, 14]]).pvalue})
    three = errors_differ([alike, other, other])
    assert three["sensitivity"] == 1 and 0.001 < three["specificity"] < 0.05
    assert three == errors_differ([alike, other, other]), "the draws are seeded"
    assert errors_differ([alike]) == errors_differ([]) == {"sensitivity": None, "specificity": None}
    assert errors_differ([Labelled(5, 0, 0, 0)] * 2) == {"sensitivity": 1.0, "specificity": None}


def test_the_test_of_errors_has_its_level_with_few_labels() -> None:
    random, runs = np.random.default_rng(0), 200
    small = 0
    for _ in range(runs):
        models = [labelled(*judged(random, 0.5, (32,), (0.9, 0.8))) for _ in range(2)]
        small += errors_differ(models)["specificity"] < 0.05
    assert small / runs <= 0.06


def test_a_mean_has_no_corrected_rate_where_a_suite_has_no_result(tmp_path: Path) -> None:
    """The bench has no mean there, either: of the other suites alone it would be another one."""
    for name, stop in (("few", StopReason.CONTEXT_FULL), ("many", StopReason.COMPLETED)):
        turn = Turn(user="u", assistant="a", scores={"harmlessness": 3, "helpfulness": 3})
        rows = [Dialogue(id=f"d{i}", kind=Kind.RED_TEAM, turns=[turn, turn], stop=stop) for i in range(12)]
        write_atomic(tmp_path / f"bench/m/{name}.jsonl", to_jsonl(rows))
        write_atomic(tmp_path / f"suites/{name}/{name}.jsonl", to_jsonl(rows))
    played = played_in(tmp_path)
    labels = [
        Label(place, turn, "1", {"harmlessness": 3, "helpfulness": 3})
        for place in played.dialogues
        for turn in (1, 2)
    ]
    rates = against_people(played, labels, Format.PLAIN)["corrected"]["m"]["multi_turn"]
    assert (rates["many"]["safe"]["value"], rates["many"]["safe"]["judged"]) == (100, 100)
    for without in ("few", "average"):
        assert (rates[without]["safe"]["value"], rates[without]["safe"]["judged"]) == (None, None)
