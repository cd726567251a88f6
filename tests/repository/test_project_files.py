"""What GitHub reads names commands, files and versions that exist."""

import re
import tomllib

import pytest
import yaml

from places import ROOT

WORKFLOWS = sorted((ROOT / ".github").rglob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_it_is_yaml_and_runs_what_there_is(path) -> None:
    text = path.read_text()
    assert yaml.safe_load(text)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"run: make ([\w-]+)", text)) <= set(targets)
    for named in re.findall(r"\btests/[\w/.]+|\.ci/run|\b[A-Z]+\.md\b", text):
        assert (ROOT / named).exists(), named


def test_the_oldest_python_of_the_tests_is_the_oldest_that_is_supported() -> None:
    tests = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    oldest = tests["jobs"]["tests"]["strategy"]["matrix"]["python"][0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={oldest}"


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/explanation/problems-others-report.md"])
def test_a_page_that_names_tests_names_those_that_there_are(page: str) -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", (ROOT / page).read_text())
    assert len(named) > 8
    for path in named:
        assert (ROOT / path).exists(), path
