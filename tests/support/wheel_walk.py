"""A new user's first commands with an installed package, outside a clone: python wheel_walk.py FOLDER

Needs the core alone. Works in FOLDER, stops at the first command that fails, and prints what it did.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def safer_steer(folder: Path, *arguments: str) -> str:
    """Run a command in `folder`; returns what it printed. Raises `SystemExit` with its last lines if it
    failed."""
    print("$ safer-steer", *arguments, flush=True)
    done = subprocess.run(
        [*PYTHON, "-m", "safer_steer", *arguments], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout


PYTHON = [sys.executable, *(["-S"] if sys.flags.no_site else [])]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`sandbox serve`; its base URL."""
    command = [*PYTHON, "-u", "-m", "safer_steer", "sandbox", "serve", "--port", "0"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[1]
    finally:
        server.kill()
        server.wait()


def walk(folder: Path) -> None:
    """Project, stub run, and a bench of a served model with a served judge."""
    print(safer_steer(folder, "--version"), end="")
    safer_steer(folder, "init", "mine")
    safer_steer(folder, "run", "mine/config.yaml", "--stub", "--out", "stub")
    with served(folder) as url:
        asked = ["--model", "sandbox", "--base-url", url, "--judge-model", "sandbox", "--judge-base-url", url]
        safer_steer(
            folder,
            "bench",
            *asked,
            "--set",
            "student.format=thinking_answer",
            "--suite",
            "sandbox",
            "--set",
            "bench.dialogues=2",
            "--out",
            "served",
        )
    for run in ("stub", "served"):
        safer_steer(folder, "verify", run)
        assert (folder / run / "report.html").is_file(), run
    print("all of it works")


if __name__ == "__main__":
    walk(Path(sys.argv[1]).resolve())
