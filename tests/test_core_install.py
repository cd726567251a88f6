"""The core works as `pip install safer-steer` leaves it: without torch and without any trainer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from core_install import link_core
from safer_steer.extras import EXTRAS

HEAVY = sorted(module for modules in EXTRAS.values() for module in modules)
CONFIG = {
    "seeds": {"sources": [{"name": "sandbox", "limit": 12}, {"name": "mine", "path": "pairs.jsonl", "use": "bench"}]},
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
"""Runs the commands it is given, one after the other in one process, and says which heavy modules that loaded."""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `python -S` has the core alone."""
    return link_core(tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="module", params=["core", "everything installed"])
def environment(request: pytest.FixtureRequest, core: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """How Python is called, and in which environment."""
    if request.param == "core":
        return [sys.executable, "-S"], core
    return [sys.executable], dict(os.environ)


@pytest.fixture(scope="module")
def served(core: dict[str, str]) -> Iterator[str]:
    """`safer-steer sandbox serve` on the core alone; its base URL."""
    command = [sys.executable, "-S", "-m", "safer_steer", "sandbox", "serve", "--port", "0"]
    environment = core | {"PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    yield server.stdout.readline().split()[1]
    server.send_signal(signal.SIGKILL)
    server.wait()


def mine(folder: Path) -> None:
    """A config, and a source of one's own with sandbox pictures, in `folder`."""
    from safer_steer.sandbox.world import draw, to_png, training_devices

    rows = []
    for number, device in enumerate(training_devices()[:2]):
        (folder / f"{number}.png").write_bytes(to_png(draw(device, True, number), device, True))
        rows.append({"id": str(number), "image": f"{number}.png", "question": "How is this used?", "safe": False})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))


def test_measuring_building_data_and_reporting_load_no_trainer(tmp_path: Path, environment: tuple[list[str], dict[str, str]], served: str) -> None:
    mine(tmp_path)
    served_model = ["--model", "sandbox", "--base-url", served, "--judge-model", "sandbox", "--format", "thinking_answer"]
    commands = [
        ["--help"],
        ["sets"],
        ["config"],
        ["cost", "config.yaml", "--sample", "4"],
        *([stage, "config.yaml", "--out", "run"] for stage in ("seeds", "assemble", "bootstrap", "report")),
        ["health", "run"],
        ["export", "run"],
        ["verify", "run"],
        ["verify", "run/export"],
        ["suite", "mine", "--path", "pairs.jsonl", "--out", "suites/mine.jsonl"],
        ["sandbox", "suites", "--out", "suites", "--marked", "2", "--unmarked", "2"],
        ["bench", *served_model, "--suite", "suites/mine.jsonl", "--out", "served"],
        ["verify", "served"],
    ]
    python, variables = environment
    done = subprocess.run([*python, "-c", SEVERAL], input=json.dumps(commands), env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert done.stdout.splitlines()[-1] == "loaded"
    assert (tmp_path / "run/export/data").is_dir()
    assert (tmp_path / "served/report.html").is_file()


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["run", "config.yaml", "--out", "run"], "train"),
        (["run", "config.yaml", "--out", "run", "--dry-run"], "train"),
        (["sft", "config.yaml", "--out", "run"], "train"),
        (["rl", "config.yaml", "--out", "run"], "train"),
        (["bench", "config.yaml", "--out", "run"], "student"),
        (["seeds", "student.yaml", "--out", "run"], "student"),
        (["sandbox", "train-base", "--out", "base"], "student"),
        (["suite", "vlguard", "--hub", "default", "--out", "suite.jsonl"], "train"),
        (["suite", "mine", "--path", "saved", "--out", "suite.jsonl"], "train"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else value,
)
def test_a_command_that_needs_an_extra_names_it(tmp_path: Path, core: dict[str, str], command: list[str], extra: str) -> None:
    mine(tmp_path)
    (tmp_path / "student.yaml").write_text(yaml.safe_dump({"roles": {"target": {"model": "student"}}}))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/dataset_info.json").write_text("{}")
    (tmp_path / "saved/state.json").write_text("{}")
    done = subprocess.run([sys.executable, "-S", "-m", "safer_steer", *command], env=core, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(f": pip install 'safer-steer[{extra}]'")
    assert not (tmp_path / "run").exists()


def test_a_bug_in_an_import_is_no_missing_extra() -> None:
    from safer_steer.extras import what_is_missing

    assert what_is_missing(ModuleNotFoundError("No module named 'no_such'", name="no_such")) is None
    too_old = what_is_missing(ModuleNotFoundError("No module named 'trl.new'", name="trl.new"))
    assert too_old == "this needs trl.new: pip install 'safer-steer[train]'"
