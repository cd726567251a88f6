"""What an experiment fixed before it was run: its questions, the rule that answers them, and how often the
rule errs. `safer-steer experiment FILE --register` writes it beside the file; what is added to the file later
is marked exploratory in the results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from safer_steer.config.file import as_written
from safer_steer.config.keys import absolute
from safer_steer.dialogue import Strict
from safer_steer.errors import UserError
from safer_steer.experiments.results import verdict
from safer_steer.experiments.spec import Claim, Expected, Experiment
from safer_steer.files.store import content_id, sha256_of, write_atomic
from safer_steer.intervals import difference_over_seeds

RULE = (
    "A difference is told if the 95 % interval over training seeds and dialogues (crossed bootstrap) and"
    " Student's t interval over the seeds' means both exclude 0."
)
SUFFIX = ".registered.json"
TRIALS = 400
"""Simulated experiments for each true difference. A rate of 5 % is then known to 2 points."""


class Power(Strict):
    """How often the rule tells a true difference."""

    difference: float = Field(description="the true difference, in points")
    agrees: float = Field(description="percent of the simulated experiments that tell its sign")
    disagrees: float = Field(description="percent that tell the other sign; with no difference, either error")


class Registration(Strict):
    """The file that `--register` writes."""

    name: str
    inputs: str = Field(description="an id of all that decides on the runs: config, arms, seeds")
    seeds: list[int]
    rule: str
    pairs: list[tuple[str, str]]
    measures: list[str]
    claims: list[Claim]
    survival: bool = False
    expected: Expected
    power: list[Power]

    def covers(self, pair: list[str], measure: str) -> bool:
        """Whether this difference was to be looked at."""
        return tuple(pair) in self.pairs and measure in self.measures


def inputs_of(experiment: Experiment, path: Path) -> str:
    """An id of what decides on the experiment's runs. Paths count as they are written, so that it is the same
    on every machine."""
    config = as_written(Path(absolute(experiment.config, path.parent)))
    keys = {"seeds", "set", "arms"} | ({"fresh_attacker"} if experiment.fresh_attacker else set())
    return content_id(config, experiment.model_dump(mode="json", include=keys))


def file_of(path: Path) -> Path:
    """Where the registration of the experiment in this file is."""
    return path.with_name(path.stem + SUFFIX)


def register(experiment: Experiment, path: Path) -> Registration:
    """Simulate the rule, and write the registration.

    Raises:
        UserError: the file names no pairs, measures or expectation, or is registered already.
    """
    target = file_of(path)
    if target.exists():
        raise UserError(f"{target}: it is registered; to register a change, copy {path.name} to a new name")
    for key in ("compare", "measures", "expected"):
        if not getattr(experiment, key):
            raise UserError(f"{path}: {key} is missing: a registration says what will be looked at")
    assert experiment.measures and experiment.expected
    registration = Registration(
        name=experiment.name,
        inputs=inputs_of(experiment, path),
        seeds=experiment.seeds,
        rule=RULE,
        pairs=experiment.compare,
        measures=experiment.measures,
        claims=experiment.claims,
        survival=experiment.survival,
        expected=experiment.expected,
        power=[
            simulated(experiment.expected, len(experiment.seeds), difference, TRIALS)
            for difference in experiment.expected.differences
        ],
    )
    write_atomic(target, json.dumps(registration.model_dump(mode="json"), indent=1) + "\n")
    return registration


def read_registration(path: Path) -> tuple[Registration, str] | None:
    """The registration of the experiment in this file, with the SHA-256 of its bytes; None without one.

    Raises:
        UserError: it is damaged; names the file.
    """
    target = file_of(path)
    if not target.is_file():
        return None
    try:
        return Registration.model_validate_json(target.read_bytes()), sha256_of(target)
    except ValidationError as error:
        raise UserError(
            f"{target}: {error.errors()[0]['msg']}; restore the file as it was registered"
        ) from None


def mark(outcome: dict[str, Any], experiment: Experiment, path: Path) -> dict[str, Any]:
    """An experiment's results with its registration: the hash of the file, whether the runs are those that
    were registered, and `exploratory` at each difference, log-rank test and claim that was not.

    Args:
        outcome: of `results.results`. Without a registration it is returned as it is.
    """
    registered = read_registration(path)
    if registered is None:
        return outcome
    registration, sha256 = registered
    same = registration.inputs == inputs_of(experiment, path) and outcome["seeds"] == registration.seeds
    differences = [
        entry | {"exploratory": not (same and registration.covers(entry["pair"], entry["measure"]))}
        for entry in outcome["differences"]
    ]
    claims = [
        entry | {"exploratory": not (same and claim in registration.claims)}
        for claim, entry in zip(experiment.claims, outcome["claims"], strict=True)
    ]
    words = f"Registered (SHA-256 {sha256}); the date of its commit says when. {in_words(registration)}"
    if not same:
        words += " **The runs are not those that were registered.**"
    if left_out := _left_out(registration, outcome):
        words += f" **Registered, and not in the file any more: {'; '.join(left_out)}.**"
    survival = outcome["survival"]
    if survival:
        pairs = registration.pairs if same and registration.survival else []
        tests = [entry | {"exploratory": tuple(entry["pair"]) not in pairs} for entry in survival["tests"]]
        survival = survival | {"tests": tests}
    marks = {"differences": differences, "claims": claims, "survival": survival}
    facts = {"sha256": sha256, "same_runs": same, "said": words}
    return outcome | marks | {"registration": facts}


def _left_out(registration: Registration, outcome: dict[str, Any]) -> list[str]:
    """Differences and claims that were registered and are not in the results."""
    reported = {(*entry["pair"], entry["measure"]) for entry in outcome["differences"]}
    claimed = {(*entry["pair"], entry["measure"], entry["more"]) for entry in outcome["claims"]}
    differences = {(*pair, measure) for pair in registration.pairs for measure in registration.measures}
    left_out = [f"{first} - {second}, {measure}" for first, second, measure in differences - reported]
    claims = (one for one in registration.claims if (*one.pair, one.measure, one.more) not in claimed)
    return [*sorted(left_out), *(f"the claim {claim.says!r}" for claim in claims)]


def in_words(registration: Registration) -> str:
    """The rule and its power."""
    powers = []
    for power in registration.power:
        rate = power.agrees if power.difference else power.disagrees
        powers.append(f"{power.difference:g} points in {rate:.1f} %")
    return (
        f"{registration.rule} In simulated experiments it told a true difference of {', '.join(powers)}. What"
        " was not registered is marked exploratory."
    )


def simulated(expected: Expected, seeds: int, difference: float, trials: int) -> Power:
    """How often `RULE` tells a true difference between two arms, with the code that makes the results.

    In a trial the dialogues have chances of their own, the same for both arms. Each training seed of an arm
    moves them by a number of its own, and the difference moves one arm up by its half, the other down.
    Chances are cut at 0 and 1, which makes a true difference a little smaller near the ends.
    """
    import numpy as np

    random = np.random.default_rng(seeds)
    shape = (seeds, expected.dialogues)
    counts = {"agrees": 0, "disagrees": 0}
    for _ in range(trials):
        chances = expected.rate + random.uniform(-1, 1, shape[1]) * expected.between_dialogues
        sides: list[dict[int, dict[Any, int]]] = []
        for half in (difference / 2, -difference / 2):
            moved = random.normal(0, expected.between_seeds, (seeds, 1))
            passed = random.random(shape) < (chances + moved + half) / 100
            sides.append({seed: dict(enumerate(map(int, row))) for seed, row in enumerate(passed)})
        entry = difference_over_seeds(*sides, seed=int(random.integers(2**31)))
        outcome = verdict(entry | {"pair": []}, 1)
        if outcome in counts:
            counts[outcome] += 1
    agrees, disagrees = (100 * counts[name] / trials for name in ("agrees", "disagrees"))
    if not difference:  # each sign is an error
        agrees, disagrees = 0.0, agrees + disagrees
    return Power(difference=difference, agrees=agrees, disagrees=disagrees)
