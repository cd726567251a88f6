"""Ends work with -9 while it is at it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def killed(work: Callable[..., Any], *arguments: object, calls: Path, at: int) -> None:
    """Do `work` in a process of its own, a fork that need not import anything, and kill it with -9 when
    `calls` has so many lines."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    while process.is_alive() and len(lines(calls)) < at:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -9, "it had ended before"
