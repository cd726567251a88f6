"""A registration fixes an experiment's questions before its runs, and says how often its rule errs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from safer_steer.cli import app
from safer_steer.errors import UserError
from safer_steer.experiments import registration
from safer_steer.experiments.registration import file_of, mark, read_registration, register, simulated
from safer_steer.experiments.shown import markdown
from safer_steer.experiments.spec import Expected, load_experiment

REPOSITORY = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "name": "small",
    "config": str(REPOSITORY / "configs" / "sandbox.yaml"),
    "seeds": [0, 1],
    "arms": {"SFT": {"model": "sft"}, "full": {}, "mean": {"set": {"rl.tcsr": "mean"}}},
    "compare": [["full", "SFT"], ["full", "mean"]],
}
CLAIM = {"says": "TCSR helps.", "where": "Table 8", "pair": ["full", "mean"], "measure": "multi-turn Safe"}
EXPECTED = {"dialogues": 40, "rate": 50, "between_seeds": 3, "differences": [0, 20]}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment's file, registered with few simulations."""
    monkeypatch.setattr(registration, "TRIALS", 20)
    path = tmp_path / "small.yaml"
    change(path)
    register(load_experiment(path), path)
    return path


def change(path: Path, **changes: Any) -> None:
    fixed = {"measures": ["multi-turn Safe"], "claims": [CLAIM], "expected": EXPECTED}
    path.write_text(yaml.safe_dump(SMALL | fixed | changes))


def marked(path: Path, seeds: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    """Made-up results of the file, with what its registration says of them."""
    experiment = load_experiment(path)
    number = {"value": 1.0, "low": -1.0, "high": 3.0, "t": None}
    differences = []
    for pair in experiment.compare:
        for measure in experiment.measures or ():
            differences.append({"pair": [*pair], "measure": measure, "paper": None, **number})
    claims = [
        claim.model_dump(mode="json") | {"found": number, "verdict": "cannot tell"}
        for claim in experiment.claims
    ]
    arms = {arm: dict.fromkeys(experiment.measures or (), number) for arm in experiment.arms}
    made_up = {"arms": arms, "seeds": [*seeds], "differences": differences, "claims": claims}
    tests = [{"pair": [*pair], "z": [1.0], "p": [0.3]} for pair in experiment.compare]
    survival = {"arms": {}, "tests": tests} if experiment.survival else None
    counts = {"lost": {}, "survival": survival}
    found = mark(made_up | counts, experiment, path)
    assert "exploratory" in markdown(found, experiment)
    return found


def exploratory(found: dict[str, Any]) -> set[str]:
    log_ranks = [one | {"measure": "log-rank"} for one in (found["survival"] or {"tests": []})["tests"]]
    entries = [*found["differences"], *found["claims"], *log_ranks]
    return {f"{' - '.join(one['pair'])}, {one['measure']}" for one in entries if one["exploratory"]}


def test_what_was_registered_is_not_exploratory_and_carries_the_hash_of_the_file(path: Path) -> None:
    found, registered = marked(path), read_registration(path)
    assert registered and found["registration"]["sha256"] == registered[1]
    assert not exploratory(found) and found["registration"]["same_runs"]


def test_a_measure_pair_or_claim_that_came_later_is_exploratory_and_the_others_are_not(path: Path) -> None:
    change(path, measures=["multi-turn Safe", "multi-turn Help"])
    assert exploratory(marked(path)) == {"full - SFT, multi-turn Help", "full - mean, multi-turn Help"}
    change(path, claims=[CLAIM, CLAIM | {"pair": ["full", "SFT"]}])
    assert exploratory(marked(path)) == {"full - SFT, multi-turn Safe"}
    change(path, claims=[CLAIM | {"more": False}])
    assert exploratory(marked(path)) == {"full - mean, multi-turn Safe"}, "the other way round"
    change(path, survival=True)
    assert exploratory(marked(path)) == {"full - SFT, log-rank", "full - mean, log-rank"}


def test_log_rank_tests_that_were_registered_are_not_exploratory(path: Path) -> None:
    file_of(path).unlink()
    change(path, survival=True)
    register(load_experiment(path), path)
    assert not exploratory(marked(path))


def test_what_was_registered_and_is_left_out_of_the_results_is_named(path: Path) -> None:
    """Or a difference that displeases could be taken out of the file, and the table would still say
    "registered"."""
    assert "not in the file" not in marked(path)["registration"]["said"]
    change(path, claims=[], compare=[["full", "SFT"]])
    said = marked(path)["registration"]["said"]
    assert "not in the file any more: full - mean, multi-turn Safe; the claim 'TCSR helps.'." in said
    change(path, claims=[CLAIM | {"more": False}])
    assert "not in the file any more: the claim 'TCSR helps.'." in marked(path)["registration"]["said"]


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [0, 1, 2]},
        {"set": {"bench.dialogues": 8}},
        {"arms": SMALL["arms"] | {"mean": {"set": {"rl.tcsr": "min"}}}},
    ],
)
def test_with_other_runs_all_is_exploratory(path: Path, changes: dict[str, Any]) -> None:
    change(path, **changes)
    found = marked(path, tuple(changes.get("seeds", (0, 1))))
    assert len(exploratory(found)) == 2 and "not those that were registered" in found["registration"]["said"]


def test_seeds_that_are_left_out_and_another_base_config_make_other_runs(path: Path, tmp_path: Path) -> None:
    assert not marked(path, (0,))["registration"]["same_runs"]
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump({"base": SMALL["config"], "rl": {"steps": 3}}))
    other = tmp_path / "other.yaml"
    change(other, config=str(base))
    register(load_experiment(other), other)
    assert marked(other)["registration"]["same_runs"]
    base.write_text(yaml.safe_dump({"base": SMALL["config"], "rl": {"steps": 4}}))
    assert not marked(other)["registration"]["same_runs"]


def test_it_is_registered_once_and_only_with_all_that_it_fixes(path: Path) -> None:
    command = ["experiment", str(path), "--register"]
    answer = CliRunner().invoke(app, command)
    assert (answer.exit_code, answer.stderr.count("\n")) == (2, 1) and "is registered" in answer.stderr
    file_of(path).write_text("{}")
    with pytest.raises(UserError, match=r"small.registered.json: .*restore the file"):
        read_registration(path)
    file_of(path).unlink()
    for key in ("compare", "measures", "expected"):
        change(path, claims=[], **{key: None if key != "compare" else []})
        answer = CliRunner().invoke(app, command)
        assert answer.exit_code == 2 and f"{key} is missing" in answer.stderr
    assert not file_of(path).exists()


def test_the_rule_errs_seldom_and_tells_what_is_large() -> None:
    """Without a difference each verdict is an error; a rule that looked at one sign less would err more."""
    expected = Expected(dialogues=60, rate=50, between_seeds=3)
    none, large = (simulated(expected, 6, difference, trials=60) for difference in (0, 20))
    assert none.agrees == 0 and none.disagrees <= 10
    assert large.agrees >= 90 and large.disagrees == 0
    few = simulated(Expected(dialogues=60, rate=50, between_seeds=9), 3, 5, trials=60)
    assert few.agrees < 40, "three seeds that differ much tell little"


def test_the_shipped_registration_is_of_its_experiment() -> None:
    path = REPOSITORY / "experiments" / "feedback.yaml"
    registered = read_registration(path)
    assert registered
    kept = json.loads(file_of(path).read_bytes())
    experiment = load_experiment(path)
    assert kept["inputs"] == registration.inputs_of(experiment, path)
    assert kept["seeds"] == experiment.seeds and len(experiment.seeds) == 12
    power = {entry["difference"]: entry for entry in kept["power"]}
    assert power[0]["disagrees"] <= 5 and power[8]["agrees"] >= 80
