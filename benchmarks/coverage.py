"""How often the 95 % intervals contain the true value: the check behind "Intervals" in
docs/explanation/method.md.

    python benchmarks/coverage.py            # under a minute on one core; prints Markdown

For one suite the coverage is exact: the sum of the binomial probabilities of all counts of passing dialogues
whose interval contains the true value. For averages over suites, and over training seeds, it is simulated
(seeded).
"""

from __future__ import annotations

import argparse
from functools import cache
from math import comb

import numpy as np

from safer_steer.intervals import difference_over_seeds, rate

SHARES = (0, 0.005, 0.03, 0.5)
"""True shares, equal in all suites."""
UNLIKE = (0.005, 0.03, 0.1, 0.5, 0.9)
"""True shares of five suites that differ."""
SIZES = (4, 24, 60, 200)
"""Dialogues per suite."""
SEEDS = 4
"""Number of training seeds."""


def of_one_suite(share: float, n: int) -> float:
    """The exact coverage, 0-1, of one suite's interval."""
    held = [k for k in range(n + 1) if holds(of_counts((k,), n), 100 * share)]
    ways, passed = np.array([comb(n, k) for k in held], dtype=float), np.array(held)
    return float((ways * share**passed * (1 - share) ** (n - passed)).sum())


def of_average(shares: tuple[float, ...], n: int, trials: int) -> float:
    """The simulated coverage, 0-1, of the average over suites of `n` dialogues with these true shares."""
    truth = 100 * float(np.mean(shares))
    trials *= 50 if max(shares) < 0.01 else 1  # few distinct outcomes then, each computed once
    drawn = np.random.default_rng(n).binomial(n, shares, size=(trials, len(shares)))
    # The mean does not depend on the order of the suites, so far fewer intervals than trials are computed.
    return float(np.mean([holds(of_counts(tuple(sorted(map(int, passed))), n), truth) for passed in drawn]))


@cache
def of_counts(passed: tuple[int, ...], n: int) -> dict[str, float | None]:
    return rate([(k, n) for k in passed])


def over_seeds(spread: float, trials: int, dialogues: int = 200) -> tuple[float, float]:
    """The simulated coverage, 0-1, of a difference over training seeds: of the crossed bootstrap, and of t.

    One model never passes. The other passes with a probability of 1/2, plus a seed effect (normal, standard
    deviation `spread`), plus a dialogue effect (uniform in -0.3..0.3) shared by all seeds.
    """
    random = np.random.default_rng(round(1000 * spread))
    held = np.zeros(2)
    nothing = {run: dict.fromkeys(map(str, range(dialogues)), 0) for run in range(SEEDS)}
    for _ in range(trials):
        chance = 0.5 + random.normal(0, spread, size=(SEEDS, 1)) + random.uniform(-0.3, 0.3, size=dialogues)
        passed = (random.random((SEEDS, dialogues)) < chance).astype(int)
        ours = {run: {str(place): int(hit) for place, hit in enumerate(passed[run])} for run in range(SEEDS)}
        found = difference_over_seeds(ours, nothing, resamples=400)
        held += [holds(found, 50), bool(found["t"]) and holds(found["t"], 50)]
    return float(held[0] / trials), float(held[1] / trials)


def holds(interval: dict, truth: float) -> bool:
    return interval["low"] - 1e-9 <= truth <= interval["high"] + 1e-9


def shares_table(trials: int) -> str:
    head = ("suites", "n of each", *(f"{100 * share:g} %" for share in SHARES))
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for suites in (1, 2, 5):
        for n in SIZES:
            alike = [(share,) * suites for share in SHARES]
            found = [of_one_suite(one[0], n) if suites == 1 else of_average(one, n, trials) for one in alike]
            lines.append(f"| {suites} | {n} | {' | '.join(f'{100 * covered:.1f}' for covered in found)} |")
    return "\n".join(lines)


def lowest_said() -> str:
    """Lowest and mean coverage of one suite over many shares. It jumps around 95 % as the share changes,
    since counts of dialogues are integers."""
    said = []
    for n in SIZES:
        found = [of_one_suite(share / 4000, n) for share in range(4, 3997)]
        said.append(f"{100 * min(found):.1f} and {100 * float(np.mean(found)):.1f} (n = {n})")
    return f"One suite, over shares of 0.1-99.9 % in steps of 0.025, lowest and mean: {', '.join(said)}."


def unlike_said(trials: int) -> str:
    found = ", ".join(f"{100 * of_average(UNLIKE, n, trials):.1f} (n = {n})" for n in SIZES)
    return f"Five suites of {', '.join(f'{100 * share:g}' for share in UNLIKE)} %: {found}."


def seeds_table(trials: int) -> str:
    head = ("standard deviation of the seeds", "bootstrap over seeds and dialogues", "t over seed means")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for spread in (0.0, 0.05, 0.1):
        crossed, t = over_seeds(spread, trials)
        lines.append(f"| {100 * spread:g} points | {100 * crossed:.0f} | {100 * t:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trials", type=int, default=2000, help="simulated benches of a cell with several suites"
    )
    parser.add_argument(
        "--seed-trials", type=int, default=500, help="simulated benches of a row over training seeds"
    )
    args = parser.parse_args()
    print(shares_table(args.trials), unlike_said(args.trials), lowest_said(), sep="\n\n", end="\n\n")
    print(seeds_table(args.seed_trials))


if __name__ == "__main__":
    main()
