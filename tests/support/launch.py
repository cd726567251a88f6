"""Starts a command in several processes, with torchrun, on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from places import SUPPORT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


def start(processes: int, *arguments: str | Path, module: str = "safer_steer") -> subprocess.Popen[str]:
    """`safer-steer` with these arguments; tests' modules can be named in its config. Its standard error is
    beside its standard output."""
    return subprocess.Popen(
        [*TORCHRUN, str(processes), "-m", module, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _path()},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def done(processes: int, *arguments: str | Path, module: str = "safer_steer") -> str:
    """As `start`; waits for it. Returns what it printed."""
    process = start(processes, *arguments, module=module)
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    return printed


def failed(processes: int, *arguments: str | Path) -> list[str]:
    """As `done` for a command that must fail. Returns what safer-steer printed, without what torchrun did."""
    process = start(processes, *arguments)
    printed = process.communicate()[0]
    assert process.returncode == 1, printed  # torchrun's, whatever the processes' codes
    return printed.splitlines()


def workers(launch: subprocess.Popen[str]) -> list[int]:
    """The ids of the processes that torchrun started, in the order of their ranks. They are in sessions of
    their own, so a kill of torchrun's group would leave them at work."""
    return sorted(map(int, Path(f"/proc/{launch.pid}/task/{launch.pid}/children").read_text().split()))


def _path() -> str:
    return os.pathsep.join(filter(None, (str(SUPPORT), os.environ.get("PYTHONPATH", ""))))
