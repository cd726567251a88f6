"""Shared fixtures: the shipped student, loaded once."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def student():
    """The shipped base student in float32; tests must leave its weights as they are."""
    from safer_steer.student.load import load_student
    from student_parts import tiny_config

    return load_student(tiny_config().student)
