"""The transcript of docs/start/first-project.md is what happens, with the core alone."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT

SERVED = "http://127.0.0.1:8000/v1"
"""The address in the transcript."""


@pytest.mark.slow
def test_the_transcript_of_two_models_is_what_happens(
    tmp_path: Path, core: dict[str, str], served_by_core: str
) -> None:
    text = (ROOT / "docs/start/first-project.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    steps = re.findall(r"^\$ safer-steer (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks), re.MULTILINE)
    assert len(steps) == 7 and sum(len(shown.splitlines()) for _, shown in steps) > 10
    for command, shown in steps:
        if command.startswith("sandbox serve"):
            continue
        arguments = shlex.split(command.replace(SERVED, served_by_core))
        done = subprocess.run(
            [sys.executable, "-S", "-m", "safer_steer", *arguments],
            env=core,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        lines = {" ".join(line.split()) for line in (done.stdout + done.stderr).splitlines()}
        for line in shown.splitlines():
            assert " ".join(line.split()) in lines, f"{command}\n{done.stdout}"
    page = (tmp_path / "two.html").read_text(encoding="utf-8")
    assert "sandbox-firm" in page and "Rates by judge" in page
