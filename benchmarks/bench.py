"""Compares `safer-steer bench` with a plain thread-pool client, each as a whole process on the same work.

    python benchmarks/bench.py               # two sizes, medians of 3 pairs; about five minutes on two cores
    python benchmarks/bench.py --sizes 120x64 --pairs 1

The endpoint is a stub in its own process. It answers every call after a latency drawn from a lognormal
distribution (mean 0.3 s, sigma 0.5, seeded), with a text for the model and a verdict for the judge that
follows from the question. A size is a number of dialogues (half of them attacks, half safe twins, 2-10 turns,
50 pictures of 30 kB) and a number of calls in flight.

*Ours* is the command line: suites, copies of the pictures, cache, journal, summary and report, without the
check of the models before. *Thread pool* is what evaluation code usually does: a script of its own
(`benchmarks/thread_pool.py`) that plays a dialogue per thread with the openai client, turn by turn: read and
encode the picture, ask the model, ask the judge. It keeps no cache, and writes the scores at its end. Both
send the same messages and must find the same scores.

Pairs run one after the other in alternating order. Wall time is from start to end of the process, CPU time is
its user and system time, memory its peak, and the time to the first request is seen by the stub.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

MEAN_S, SIGMA = 0.3, 0.5
PICTURES, SIDE = 50, 100
MODEL, JUDGE = "tested", "judge"
SPAWN = multiprocessing.get_context("spawn")
TARGETS = {"480x256": 0.5, "120x64": 0.55}
"""Largest ratio of wall time and of CPU time, ours to the thread pool's, by size."""


@dataclass
class Cost:
    """What a process took: wall and CPU seconds, peak memory in MB, seconds to its first request."""

    wall: float
    cpu: float
    memory: float
    first: float


# The stub ------------------------------------------------------------------------


def answer(question: str) -> str:
    """What the model says to a question, which ends in its number, `#12`."""
    return f"About {question}: I will not go into that; the lid should stay shut. " + "It is safer so. " * 20


def verdict(question: str) -> str:
    """The judge's scores, which follow from the question alone."""
    draw = random.Random(question)
    scores = {"harmlessness": draw.choice((3, 3, 3, 1)), "helpfulness": draw.choice((2, 3, 3))}
    return json.dumps({"reason": "It declines.", **scores, "refused": draw.random() < 0.2})


class _Stub(asyncio.Protocol):
    """One connection: requests one after the other, each answered after its latency."""

    latencies: Iterator[float]
    begun: list[float]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.data, self.needed = transport, bytearray(), 0

    def data_received(self, data: bytes) -> None:
        self.data += data
        if not self.needed:
            end = self.data.find(b"\r\n\r\n")
            if end < 0:
                return
            length = re.search(rb"content-length: *(\d+)", self.data[:end], re.IGNORECASE)
            self.needed = end + 4 + (int(length[1]) if length else 0)
        if len(self.data) < self.needed:
            return
        request, self.data, self.needed = bytes(self.data[: self.needed]), self.data[self.needed :], 0
        if request.startswith(b"GET"):
            self.send(b'{"object": "list", "data": []}')
            return
        self.begun.append(time.monotonic())
        text = _reply_to(request)
        asyncio.get_running_loop().call_later(next(self.latencies), self.send, _completion(text))

    def send(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)  # type: ignore[attr-defined]


def _reply_to(request: bytes) -> str:
    body = request[request.index(b"\r\n\r\n") + 4 :]
    question = re.findall(rb"Question [\w ]*#\d+", body)[-1].decode()
    return verdict(question) if f'"{JUDGE}"'.encode() in body else answer(question)


def _completion(text: str) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960}
    head = {"id": "stub", "object": "chat.completion", "created": 0, "model": "stub"}
    return json.dumps(head | {"choices": [choice], "usage": usage}).encode()


def stub(pipe: Connection, mean_s: float) -> None:
    """Serve on a free port and send its number through `pipe`. Each message that arrives there is answered
    with the time of the first request since the last message (monotonic clock), and starts the seeded
    latencies again."""

    def latencies() -> Iterator[float]:
        draw = random.Random(0)
        while True:
            yield draw.lognormvariate(math.log(mean_s) - SIGMA**2 / 2, SIGMA) if mean_s else 0.0

    def told() -> None:
        try:
            pipe.recv()
        except EOFError:  # whom it serves was killed
            os._exit(1)
        pipe.send(_Stub.begun[0] if _Stub.begun else math.nan)
        _Stub.begun.clear()
        _Stub.latencies = latencies()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Stub, "127.0.0.1", 0, backlog=1024)
        loop.add_reader(pipe.fileno(), told)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    _Stub.begun, _Stub.latencies = [], latencies()
    asyncio.run(serve())


@contextmanager
def serving(
    mean_s: float, server: Callable[[Connection, float], None] = stub
) -> Iterator[tuple[str, Connection]]:
    """A stub in a process of its own: its base URL, and the pipe to it."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=server, args=(there, mean_s), daemon=True)
    process.start()
    there.close()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1", here
    finally:
        process.terminate()
        process.join()


# The work ------------------------------------------------------------------------


def write_suites(folder: Path, dialogues: int) -> list[Path]:
    """Two suites, attacks and safe twins, and their pictures: noise, which PNG cannot compress."""
    from PIL import Image

    noise, lengths = random.Random(0), random.Random(1)
    (folder / "pictures").mkdir(parents=True)
    for number in range(PICTURES):
        pixels = noise.randbytes(3 * SIDE * SIDE)
        Image.frombytes("RGB", (SIDE, SIDE), pixels).save(folder / "pictures" / f"{number}.png")
    files = []
    for kind, name in (("red_team", "attacks"), ("benign", "twins")):
        files.append(folder / f"{name}.jsonl")
        with files[-1].open("w", encoding="utf-8") as file:
            for number in range(dialogues // 2):
                turns = [
                    {"user": f"Question of {name} {number} {'and what it holds ' * 6}#{turn}"}
                    for turn in range(lengths.randint(2, 10))
                ]
                images = [f"pictures/{number % PICTURES}.png"]
                row = {"id": f"{name}-{number}", "kind": kind, "images": images, "turns": turns}
                file.write(json.dumps(row) + "\n")
    return files


def measured(command: list[str], pipe: Connection) -> Cost:
    """Run a command to its end. Raises `SystemExit` with its output if it fails."""
    pipe.send("begin")
    pipe.recv()
    with tempfile.TemporaryFile() as said:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}:\n{said.read().decode(errors='replace')}")
    pipe.send("end")
    first = pipe.recv() - started
    memory = used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return Cost(wall, used.ru_utime + used.ru_stime, memory, first)


def ours(url: str, suites: list[Path], out: Path, in_flight: int) -> list[str]:
    """The command of `safer-steer bench`."""
    return [
        *(sys.executable, "-m", "safer_steer", "bench", "--model", MODEL, "--base-url", url),
        *(part for suite in suites for part in ("--suite", str(suite))),
        *("--judge-model", JUDGE, "--judge-base-url", url),
        *("--set", f"roles.*.concurrency={in_flight}", "--out", str(out), "--no-check"),
    ]


def thread_pool(url: str, suites: list[Path], out: Path, in_flight: int) -> list[str]:
    """The command of the plain client."""
    script = Path(__file__).with_name("thread_pool.py")
    names = ("--model", MODEL, "--judge", JUDGE, "--threads", str(in_flight), "--out", str(out))
    return [sys.executable, str(script), "--url", url, *names, *map(str, suites)]


def scores(out: Path) -> dict[str, list[dict[str, float]]]:
    """The scores of every dialogue by its id, from our run folder or from the thread pool's file."""
    files = [out] if out.is_file() else sorted(out.glob("bench/*/*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: [turn["scores"] for turn in row["turns"]] for row in rows}


def compared(dialogues: int, in_flight: int, pairs: int, mean_s: float) -> tuple[Cost, Cost]:
    """Medians of ours and of the thread pool. Raises `SystemExit` if they find other scores."""
    found: dict[bool, list[Cost]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as name, serving(mean_s) as (url, pipe):
        folder = Path(name)
        suites = write_suites(folder / "suites", dialogues)
        for pair in range(pairs):
            outs = {True: folder / f"ours-{pair}", False: folder / f"theirs-{pair}.jsonl"}
            for is_ours in (pair % 2 == 0, pair % 2 == 1):
                command = (ours if is_ours else thread_pool)(url, suites, outs[is_ours], in_flight)
                found[is_ours].append(measured(command, pipe))
            if scores(outs[True]) != scores(outs[False]):
                raise SystemExit("the two found other scores")
    return _medians(found[True]), _medians(found[False])


def _medians(costs: list[Cost]) -> Cost:
    return Cost(*(median(getattr(cost, name) for cost in costs) for name in Cost.__dataclass_fields__))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", default=["120x64", "480x256"], help="dialogues x calls in flight"
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--latency", type=float, default=MEAN_S, help="mean, in seconds")
    args = parser.parse_args()
    print("| dialogues, in flight | client | wall | CPU | peak memory | first request |")
    print("|---|---|---|---|---|---|")
    for size in args.sizes:
        dialogues, in_flight = map(int, size.split("x"))
        mine, theirs = compared(dialogues, in_flight, args.pairs, args.latency)
        for label, cost in (("ours", mine), ("thread pool", theirs)):
            cells = f"{cost.wall:.1f} s | {cost.cpu:.1f} s | {cost.memory:.0f} MB | {cost.first:.2f} s"
            print(f"| {dialogues}, {in_flight} | {label} | {cells} |")
        ratios = [
            f"{getattr(mine, name) / getattr(theirs, name):.2f} x" for name in Cost.__dataclass_fields__
        ]
        print(f"| {dialogues}, {in_flight} | ratio | {' | '.join(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
