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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest tests first: with two processes (`make test`), neither ends long before the other."""
    slow = ("kill_and_resume", "test_init", "test_pipeline", "reinforce", "bootstrap", "repository")
    items.sort(key=lambda item: next((i for i, name in enumerate(slow) if name in item.nodeid), len(slow)))


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
