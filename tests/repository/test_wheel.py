"""The wheel holds all that a new user's first commands need."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from core_install import link_core
from places import ROOT


@pytest.mark.slow
def test_a_new_user_s_first_commands_work_with_the_wheel_outside_the_clone(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "package")
    core = link_core(tmp_path / "packages", tmp_path / "package")
    (tmp_path / "walk").mkdir()
    command = [sys.executable, "-S", str(ROOT / "tests/support/wheel_walk.py"), str(tmp_path / "walk")]
    done = subprocess.run(command, env=core, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all of it works\n")
