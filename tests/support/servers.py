"""Two real servers, each a process of its own: vLLM with the shipped student, and the sandbox's agents."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from urllib.request import urlopen

import pytest

from places import ROOT
from safer_steer.config import SHIPPED

VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
MODEL = "student"
"""The name it is served under: with a base_url, `student` is a model like any other."""
START_S = 300
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
}
COMMON = [
    *("--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "16", "--enforce-eager"),
    *("--limit-mm-per-prompt", '{"image": 1, "video": 0}'),
]
OPTIONS = [
    *("--model", str(SHIPPED), "--served-model-name", MODEL),
    *COMMON,
    *("--generation-config", "vllm"),  # a request's sampling is all of the sampling
    *(
        "--structured-outputs-config",
        '{"backend": "xgrammar", "disable_any_whitespace": true}',
    ),  # or a small model never gets past the blanks
]

ROLLOUTS = [
    *("--logprobs-mode", "processed_logprobs", "--enable-scale-out"),
    *("--enable-lora", "--max-lora-rank", "16", "--max-loras", "2"),
    *("--max-num-batched-tokens", "16384"),  # on the CPU, a seeded request of which a part is prefilled fails
]
"""What Stage III needs besides (docs/how-to/rollouts.md)."""


class Server:
    """A process with its log; within the `with` block it takes requests at `url`."""

    def __init__(
        self, name: str, command: list[str], port: int, log: Path, environment: dict[str, str]
    ) -> None:
        self.name, self.command, self.port, self.log = name, command, port, log
        self.environment = os.environ | environment

    @property
    def url(self) -> str:
        """What roles give as base_url."""
        return f"http://127.0.0.1:{self.port}/v1"

    def get(self, path: str) -> str:
        """The body of `GET path`. Raises `OSError` if there is no answer, or not 200."""
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as reply:
            return str(reply.read().decode())

    def wait(self, path: str, seconds: float) -> None:
        """Until `path` answers; fails with the log's last lines if the process ends, or the time is up,
        before that."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            try:
                self.get(path)
                return
            except OSError:
                time.sleep(0.5)
        why = (
            f"ended with code {self.process.returncode}"
            if self.process.poll() is not None
            else f"gave no answer within {seconds:g} s"
        )
        last = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        pytest.fail(f"{self.name} {why}; the last lines of its log:\n{last}", pytrace=False)

    def __enter__(self) -> Server:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process and all it started."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=20)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class VLLM(Server):
    """vLLM on the CPU, by default with the shipped student."""

    def __init__(self, log: Path, options: list[str] = OPTIONS) -> None:
        if not VLLM_PYTHON.exists():
            pytest.fail(
                f"no {VLLM_PYTHON.relative_to(ROOT)}; `make test-integration` installs it", pytrace=False
            )
        port = free_port()
        command = [
            str(VLLM_PYTHON),
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            *options,
        ]
        super().__init__("vLLM", command, port, log, SETTINGS)

    def count(self, metric: str) -> int:
        """A counter of `/metrics`, summed over its labels."""
        found = re.findall(rf"^vllm:{metric}_total{{.*}} (\S+)$", self.get("/metrics"), re.MULTILINE)
        assert found, f"vLLM counts no {metric}"
        return round(sum(map(float, found)))

    @property
    def answered(self) -> int:
        """Requests answered so far."""
        return self.count("request_success")

    @property
    def pictures(self) -> int:
        """Pictures that came with requests so far."""
        return self.count("mm_cache_queries")


def sandbox(log: Path) -> Server:
    """`safer-steer sandbox serve`."""
    port = free_port()
    return Server(
        "the sandbox",
        [sys.executable, "-m", "safer_steer", "sandbox", "serve", "--port", str(port)],
        port,
        log,
        {"OMP_NUM_THREADS": "1"},
    )


def free_port() -> int:
    """One that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def safer_steer(*arguments: object) -> str:
    """Run a command as a user does; its output. Fails if it does not end with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "safer_steer", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The sandbox's agents behind a real endpoint. A `conftest.py` that imports it has it."""
    with sandbox(tmp_path_factory.mktemp("sandbox") / "log.txt") as server:
        server.wait("/v1/models", 60)
        yield server
