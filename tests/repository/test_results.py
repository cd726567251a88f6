"""The tables in the docs are those of the results in docs/results/, whose experiments are as they were."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
from types import ModuleType

import pytest

from places import ROOT
from safer_steer.experiments import results
from safer_steer.experiments.measures import MEASURES
from safer_steer.experiments.registration import read_registration
from safer_steer.experiments.spec import load_experiment

DOCS = ROOT / "docs"
RESULTS = sorted((DOCS / "results").glob("*.json"))


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["../README.md", "results/results.md", "results/claims.md"])
def test_the_pages_have_the_tables_of_the_results(tables: ModuleType, name: str) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    assert tables.page(page) == page, "write them with: python docs/tables.py"


@pytest.mark.parametrize("name", ["curves", "cotrain"])
def test_a_program_that_draws_finds_what_it_imports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    runpy.run_path(str(DOCS / f"{name}.py"))


def test_every_result_has_a_table() -> None:
    page = (DOCS / "results/results.md").read_text(encoding="utf-8")
    assert RESULTS and [path.stem for path in RESULTS] == sorted(
        re.findall(r"<!-- (?!end|not_shown)(\w+) -->", page)
    )


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_is_of_the_experiment_as_it_is(path) -> None:
    found = json.loads(path.read_bytes())
    file = ROOT / "experiments" / f"{path.stem}.yaml"
    experiment = load_experiment(file)
    assert found["name"] == experiment.name and set(found["seeds"]) <= set(experiment.seeds)
    whole = found["seeds"] == experiment.seeds
    assert list(found["arms"]) == list(experiment.arms)
    measures = set(experiment.measures or MEASURES)
    assert all(measures >= rates.keys() for rates in found["arms"].values())
    pairs = [tuple(entry["pair"]) for entry in found["differences"]]
    assert list(dict.fromkeys(pairs)) == experiment.compare
    claims = results.tested(experiment, found["differences"], [])
    if registered := read_registration(file):
        assert found["registration"]["sha256"] == registered[1]
        assert found["registration"]["same_runs"] is whole, "seeds that are left out are told"
        claims = [claim | {"exploratory": not whole} for claim in claims]
    assert found["claims"] == claims


def test_the_words_below_the_tables_have_the_tables_numbers() -> None:
    """Decimals, and whole numbers of percent or points. A passage says so where a number is of no command."""
    page = (DOCS / "results/results.md").read_text(encoding="utf-8")
    unknown = []
    for name in (path.stem for path in RESULTS):
        tables, _, rest = page.partition(f"<!-- {name} -->")[2].partition("<!-- end -->")
        words = re.split(r"\n## |<!-- ", rest)[0].partition("What it shows")[2]
        known = [float(number) for number in re.findall(r"\d+\.?\d*", tables)]
        for passage in re.split(r"\n(?=- )", words):
            if "no command here" in passage:
                continue
            for number in re.findall(r"\d+\.\d+|\d+(?= (?:%|points))", passage):
                half_a_digit = 0.5 * 10 ** -len(number.partition(".")[2])
                if all(abs(float(number) - one) > half_a_digit + 1e-9 for one in known):
                    unknown.append(f"{name}: {number} in {passage[:60]!r}")
    assert not unknown
