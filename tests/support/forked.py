"""Processes of their own that can be killed, forked from one that has imported the trainers: importing takes
ten seconds of a processor, and a test that kills starts many."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    ["safer_steer.cli", "safer_steer.training.dpo", "safer_steer.training.grpo", "safer_steer.training.sft"]
)


class Forked:
    """`python -m MODULE ARGUMENT...`, at work from the start. What it prints goes into a file."""

    def __init__(self, log: Path, module: str, *arguments: str | Path, **environment: str) -> None:
        self.log = log
        self.process = _FORKING.Process(
            target=_run, args=(log, module, [str(argument) for argument in arguments], environment)
        )
        self.process.start()

    @property
    def ended(self) -> bool:
        return self.process.exitcode is not None

    def wait(self) -> str:
        """Wait for its end, which must be a good one; what it printed."""
        self.process.join()
        assert self.process.exitcode == 0, self.printed
        return self.printed

    def kill_when(self, due: Callable[[], bool]) -> bool:
        """Kill it with -9 once it is `due`; False if it ended before."""
        while not self.ended and not due():
            time.sleep(0.002)
        if not self.ended and self.process.pid:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    @property
    def printed(self) -> str:
        return self.log.read_text()


def _run(log: Path, module: str, arguments: list[str], environment: dict[str, str]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
