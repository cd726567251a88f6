"""Starts a command in several processes, on the CPU: with torchrun, or forked with its environment."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from forked import Forked
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


def forked(processes: int, log: Path, *arguments: str | Path, module: str = "safer_steer") -> list[Forked]:
    """The same without torchrun: forked processes with its environment, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    ranks = []
    for rank in map(str, range(processes)):
        environment = rendezvous | sizes | {"RANK": rank, "LOCAL_RANK": rank}
        ranks.append(Forked(log.with_suffix(f".{rank}.log"), module, *arguments, **environment))
    return ranks


def done(processes: int, log: Path, *arguments: str | Path, module: str = "safer_steer") -> str:
    """As `forked`; waits for all. Returns what they printed."""
    return "".join([rank.wait() for rank in forked(processes, log, *arguments, module=module)])


def failed(processes: int, *arguments: str | Path) -> list[str]:
    """As `start` for a command that must fail. Returns what was printed."""
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
