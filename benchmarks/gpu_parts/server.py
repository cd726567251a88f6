"""A vLLM server for the parts that ask one."""

from __future__ import annotations

import atexit
import os
import shlex
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from safer_steer.config import Student
from safer_steer.errors import UserError

START_S = 300
"""Most seconds until it answers."""


class VLLMServer:
    """One server at a time, of the line that the package prints for a student (`serve_line`)."""

    def __init__(self, python: str, options: tuple[str, ...], log: Path) -> None:
        self.python, self.options, self.log = python, options, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._line, self._process = "", None
        atexit.register(self.stop)

    def serve(self, student: Student) -> None:
        """Start it, unless one of the same line runs. Raises `UserError` if it does not answer."""
        from safer_steer.student.vllm_weights import serve_line

        line = serve_line(student, student.base, training=True)
        if line == self._line:
            return
        self.stop()
        words = shlex.split(line)  # NAME=VALUE... vllm serve MODEL OPTION...
        place = words.index("vllm")
        # With it NCCL 2.30 and later takes two processes on one card: the server, and this one.
        os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
        environment = os.environ | dict(word.split("=", 1) for word in words[:place])
        command = [self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", *words[place + 2 :]]
        command += ["--host", "127.0.0.1", "--port", str(self.port), *self.options]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        until = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < until:
            with suppress(OSError), urlopen(f"{self.url}/health", timeout=10):
                self._line = line
                return
            time.sleep(0.5)
        self.stop()
        raise UserError(f"{self.python}: no vLLM server; {self.log} says why")

    def stop(self) -> None:
        """End it and all it started."""
        if self._process:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=20)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._line, self._process = "", None
