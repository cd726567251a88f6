"""Shared fixtures: the shipped student, loaded once; the core without any extra; the sandbox's agents,
served."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from core_install import link_core

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


FIRST = ("kill_and_resume", "test_loop", "test_experiment", "repository", "test_pipeline", "bootstrap")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs are slow (`make test-runs`). The longest tests come first: with two processes, neither ends
    long before the other."""
    for item in items:
        if "/whole_runs/" in item.path.as_posix():
            item.add_marker("slow")
    items.sort(key=lambda item: next((i for i, name in enumerate(FIRST) if name in item.nodeid), len(FIRST)))


@pytest.fixture(scope="session")
def student():
    """The shipped base student in float32; tests must leave its weights as they are."""
    from safer_steer.student.load import load_student
    from student_parts import tiny_config

    return load_student(tiny_config().student)


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `python -S` has the core alone, without any extra."""
    return link_core(tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="session")
def served_by_core(core: dict[str, str]) -> Iterator[str]:
    """`safer-steer sandbox serve` on the core alone; its base URL."""
    command = [sys.executable, "-S", "-m", "safer_steer", "sandbox", "serve", "--port", "0"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=core | {"PYTHONUNBUFFERED": "1"}
    )
    assert server.stdout is not None
    yield server.stdout.readline().split()[1]
    server.kill()
    server.wait()
