"""The pages name what there is: CONTRIBUTING.md, what GitHub reads, the reference, the paper's record."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from places import ROOT, TIERS
from safer_steer import __version__
from safer_steer.config.file import load_config
from safer_steer.config.keys import describe
from safer_steer.files.store import canonical

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
NAMED = set(re.findall(r"`([\w./-]+)`", TEXT)) | set(re.findall(r"\]\(([\w./-]+)\)", TEXT))
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github").rglob("*.yml"))
PAPER = "7c94875667dba44dd7227cd8c0a0257580243f89bf2e37c6043c5ed0a04e4bde"
"""The record's canonical hash, as its registry gives it (schema pith-number/v1.0)."""

spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
assert spec is not None and spec.loader is not None
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


def test_contributing_names_files_targets_and_settings_that_are_there() -> None:
    files = [name for name in NAMED if re.search(r"\.(py|j2|md|txt)$|/$", name) and "NAME" not in name]
    for name in files:
        assert (ROOT / name).exists() or (ROOT / "src/safer_steer" / name).exists(), name
    for target in re.findall(r"`make ([\w-]+)`", TEXT):
        assert f"\n{target}:" in MAKEFILE
    settings = {name for name in NAMED if re.fullmatch(r"(rl|bootstrap|bench|seeds)\.\w+", name)}
    assert files and settings and settings <= {key for key, *_ in describe()}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_yaml_and_runs_what_there_is(path: Path) -> None:
    text = path.read_text()
    assert yaml.safe_load(text)
    targets = re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE)
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


@pytest.mark.parametrize("name", reference.WRITERS)
def test_a_reference_page_is_what_the_code_says(name: str) -> None:
    page = (reference.PAGES / name).read_text(encoding="utf-8")
    assert page == reference.page(name), "write it with: python docs/reference.py"
    for line in page.splitlines():
        assert not re.fullmatch(r"\| `[^|]*` \|  \|", line), "it is not described"


def test_the_papers_record_is_the_registered_one() -> None:
    record = json.loads((ROOT / "docs/paper/pith_record.json").read_bytes())
    assert record["source"] == {"kind": "arxiv", "id": "2604.16358", "version": 2}
    line = canonical(record).removesuffix("\n")
    assert hashlib.sha256(line.encode()).hexdigest() == PAPER


def test_changelog_and_citation_name_the_version_of_the_package() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    latest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert latest and latest[1] in (__version__, "Unreleased")


def reproduce(*given: str) -> subprocess.CompletedProcess[str]:
    """What `make reproduce` would do, also within `make test`."""
    alone = {"PATH": os.environ["PATH"]}
    command = ["make", "-n", "reproduce", *given]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=alone)


@pytest.mark.parametrize("given", [[], ["MODEL=qwen2.5-vl-3b"], ["MODEL=qwen2.5-vl-3b", "TIER=s%"]])
def test_a_tier_that_is_not_there_is_one_line_that_names_those_that_are(given: list[str]) -> None:
    done = reproduce(*given)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    names = [path.stem for path in TIERS if path.stem.startswith("qwen")]
    assert len(names) == 8 and f"give MODEL and TIER of one of these: {' '.join(names)}" in done.stderr
    assert "-stub.yaml --out" in reproduce("MODEL=qwen2.5-vl-3b", "TIER=stub").stdout


def test_a_stub_tier_says_that_it_needs_the_data_of_its_run() -> None:
    for path in (path for path in TIERS if path.stem.endswith("stub")):
        assert load_config(path).seeds.sources[0].path, "a folder that is not in the repository"
        assert "all data sets and suites" in path.read_text().partition("base:")[0]
    [row] = re.findall(r"^\| `stub`.*", (ROOT / "docs/how-to/reproduce.md").read_text(), re.MULTILINE)
    assert "[data](#data)" in row
    assert "the data that CONFIG names" in (ROOT / "docs/reference/commands.md").read_text()
