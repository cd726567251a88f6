"""The core works as `pip install safer-steer` leaves it: without torch and without any trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from safer_steer.errors import EXTRAS

HEAVY = sorted(module for modules in EXTRAS.values() for module in modules)
MINE = {"name": "mine", "path": "pairs.jsonl", "use": "bench"}
CONFIG = {
    "seeds": {"sources": [{"name": "sandbox", "limit": 12}, MINE]},
    "assembly": {},
    "bench": {"suites": ["steer"]},
    "bootstrap": {"dialogues": 4},
    "rl": {"seeds": 4, "prompts_per_step": 2},
}
SEVERAL = f"""
import json, sys
from safer_steer.cli import main
for arguments in json.load(sys.stdin):
    sys.argv = ["safer-steer", *arguments]
    print("##", *arguments, flush=True)
    try:
        main()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
print("loaded", *sorted(set(sys.modules) & set({HEAVY})))
"""
"""Runs the commands it is given, one after the other, and says which heavy modules that loaded."""


@pytest.fixture(scope="module", params=["core", "everything installed"])
def environment(request: pytest.FixtureRequest, core: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """How Python is called, and in which environment."""
    if request.param == "core":
        return [sys.executable, "-S"], core
    return [sys.executable], dict(os.environ)


def mine(folder: Path) -> None:
    """A config, and a source of one's own with sandbox pictures, in `folder`."""
    from safer_steer.sandbox.world import draw_png, training_devices

    rows = []
    for number, device in enumerate(training_devices()[:2]):
        (folder / f"{number}.png").write_bytes(draw_png(device, True, number))
        row = {"id": str(number), "image": f"{number}.png", "question": "How is this used?", "safe": False}
        rows.append(row)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))


Done = subprocess.CompletedProcess[str]


def run(python: list[str], environment: dict[str, str], folder: Path, stdin: str = "") -> Done:
    """A Python process at work in `folder`."""
    return subprocess.run(python, input=stdin, env=environment, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_the_light_commands_load_no_trainer(
    tmp_path: Path,
    environment: tuple[list[str], dict[str, str]],
    served_by_core: str,
) -> None:
    mine(tmp_path)
    served = ["--model", "sandbox", "--base-url", served_by_core, "--judge-model", "sandbox"]
    commands = [
        ["--help"],
        ["sets"],
        ["config"],
        ["cost", "config.yaml"],
        *([stage, "config.yaml", "--out", "run"] for stage in ("seeds", "assemble", "bootstrap")),
        ["report", "run"],
        ["health", "run"],
        ["export", "run"],
        ["verify", "run"],
        ["verify", "run/export"],
        ["suite", "mine", "--path", "pairs.jsonl", "--out", "suites/mine.jsonl"],
        ["sandbox", "suites", "--out", "suites", "--marked", "2", "--unmarked", "2"],
        ["bench", *served, "--suite", "suites/mine.jsonl", "--out", "served"],
        ["verify", "served"],
    ]
    python, variables = environment
    done = run([*python, "-c", SEVERAL], variables, tmp_path, json.dumps(commands))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert done.stdout.splitlines()[-1] == "loaded"
    assert (tmp_path / "run/export/data").is_dir()
    assert (tmp_path / "served/report.html").is_file()


@pytest.mark.slow
def test_what_init_proposes_works_without_a_trainer(tmp_path: Path, core: dict[str, str]) -> None:
    """The dry walk makes the data, says in one line what the rest needs, and is no failure."""
    python = [sys.executable, "-S", "-m", "safer_steer"]
    made = run([*python, "init", "mine"], core, tmp_path)
    *_, proposed, needs = made.stdout.splitlines()
    words = proposed.partition("Try it without a model: safer-steer ")[2].split()
    assert words[0] == "run" and "--stub" in words
    assert needs.endswith("ends before training, which needs: pip install 'safer-steer[train]'")
    done = run([*python, *words], core, tmp_path)
    assert done.returncode == 0, done.stderr
    *_, page, line = done.stdout.splitlines()
    out = Path(words[-1])
    assert page == f"report: {out / 'report.html'}" and (tmp_path / out / "report.html").is_file()
    assert line.startswith("run --stub ended before training, which needs trl, ")
    assert line.endswith(": pip install 'safer-steer[train]'; then the same command goes on")
    stages = json.loads((tmp_path / out / "manifest.json").read_text())["stages"]
    assert stages.keys() == {"seeds", "assemble", "bootstrap", "report"}
    again = run([*python, *words], core, tmp_path)
    assert again.returncode == 0 and "bootstrap: done already" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["run", "config.yaml", "--out", "run"], "train"),
        (["run", "config.yaml", "--out", "run", "--dry-run"], "train"),
        (["run", "config.yaml", "--out", "run", "--dry-run", "--stub"], "train"),
        (["sft", "config.yaml", "--out", "run"], "train"),
        (["rl", "config.yaml", "--out", "run"], "train"),
        (["bench", "config.yaml", "--out", "run"], "student"),
        (["seeds", "student.yaml", "--out", "run"], "student"),
        (["sandbox", "train-base", "--out", "base"], "student"),
        (["sandbox", "build-pretrained", "base"], "pretrained"),
        (["suite", "vlguard", "--hub", "default", "--out", "suite.jsonl"], "train"),
        (["suite", "mine", "--path", "saved", "--out", "suite.jsonl"], "train"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else value,
)
def test_a_command_that_needs_an_extra_names_it(
    tmp_path: Path,
    core: dict[str, str],
    command: list[str],
    extra: str,
) -> None:
    mine(tmp_path)
    (tmp_path / "student.yaml").write_text(yaml.safe_dump({"roles": {"target": {"model": "student"}}}))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/dataset_info.json").write_text("{}")
    (tmp_path / "saved/state.json").write_text("{}")
    done = run([sys.executable, "-S", "-m", "safer_steer", *command], core, tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(f": pip install 'safer-steer[{extra}]'")
    assert not (tmp_path / "run").exists()


def test_a_bug_in_an_import_is_no_missing_extra() -> None:
    from safer_steer.errors import what_is_missing

    assert what_is_missing(ModuleNotFoundError("No module named 'no_such'", name="no_such")) is None
    too_old = what_is_missing(ModuleNotFoundError("No module named 'trl.new'", name="trl.new"))
    assert too_old == "this needs trl.new: pip install 'safer-steer[train]'"
