"""Ctrl-C: replies that are paid for are kept, and the same command asks for nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPLY = {"choices": [{"message": {"content": "No."}, "finish_reason": "stop"}], "usage": {}}


class Slow(BaseHTTPRequestHandler):
    """Answers after half a second, and notes each question."""

    asked: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(json.dumps(json.loads(body)["messages"]))
        time.sleep(0.5)
        reply = json.dumps(REPLY).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Slow,), {"asked": asked})
    serving = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}/v1", asked
    serving.shutdown()
    serving.server_close()


def _heed_ctrl_c() -> None:
    """A shell that starts the tests in the background lets them, and so the command, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_ctrl_c_waits_for_replies_under_way(server: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = server
    suite = tmp_path / "suite.jsonl"
    rows = [{"id": f"d{n}", "kind": "benign", "turns": [{"user": f"Question {n}"}]} for n in range(12)]
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--model", "m", "--base-url", url, "--suite", str(suite), "--no-judge", "--no-check"]
    command = [sys.executable, "-m", "safer_steer", "bench", *options, "--set", "roles.*.concurrency=4"]
    command += ["--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ,
        preexec_fn=_heed_ctrl_c,
    )
    while len(asked) < 4 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    assert "waiting at most 20 s for replies under way" in said and "run the same command to continue" in said
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(asked) == len(set(asked)) == 12, "nothing is asked twice"
