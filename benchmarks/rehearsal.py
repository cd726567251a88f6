"""A rehearsal of the whole method at the paper's sizes: how long each command takes, and what it needs.

    python benchmarks/rehearsal.py --share 0.01 0.1 --out runs/rehearsal
    python benchmarks/rehearsal.py --share 0.1 1 --out runs/rehearsal   # about 75 minutes, and 30 GB in --out

With a share of 1 there are the paper's 15,400 dialogues before the filter and 2,000 seeds for RL, and up to
3,227 scripts that three models of the bench answer. Every pair has a photograph of 1 megapixel, made up. All
roles are behind one HTTP server, in a process of its own, which answers like `--stub` after a latency:
lognormal, by default with a mean of 1 s and a sigma of 0.8, seeded by the request. The student is the shipped
one, and SFT and RL take a few steps only (`--sft-steps`, `--rl-steps`). `to the end` is what all steps of the
config would take at that pace.

Each command is a process: wall time, its own processor time and its peak memory (ru_maxrss). The server needs
processor time, too, which is not in the table, but takes it from a command on a machine with few cores.

Stage I and II and the bench are killed with -9 in their middle and started again. `first call` is the
time from the start to the first request that the server sees, `after the kill` the same for the second start;
`again` is the command on what is finished.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from bench import serving
from PIL import Image

from safer_steer.errors import ExitCode
from safer_steer.prompts.made_up import words

PAIRS, BENCH_PAIRS, DIALOGUES, SEEDS, BENCH = 9_000, 1_300, 15_400, 2_000, 3_227
"""At a share of 1: pairs for training and for the bench (about 2.6 scripts each), dialogues before the
filter, seeds of RL, scripts of the bench."""
MODELS = ("one", "two", "three")
SIDE = 1024
"""Width and height of a photograph, pixels."""
SIGMA = 0.8
LOOK_S = 1.0
"""Seconds between two looks at how far a command is that is to be killed: they read its files."""
PARTS = ("images", "seeds", "splits", "bootstrap", "sft", "rl")
NONE = "–"


# The server ----------------------------------------------------------------------


def serve(pipe: Connection, mean_s: float) -> None:
    """Serve on a free port and send its number through `pipe`. Each message that arrives there is answered
    with the number of calls since the last one, and the time of the first of them (monotonic clock)."""
    from aiohttp import web
    from pydantic_core import from_json

    from safer_steer.run.stub import StubTransport

    stub, calls = StubTransport(), list[float]()

    async def complete(request: web.Request) -> web.Response:
        calls.append(time.monotonic())
        body = from_json(await request.read())
        schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
        repeat = int(request.headers.get("x-sample", 0))
        reply = await stub.complete(body["messages"], schema, repeat)
        if mean_s:
            draw = random.Random(reply.text)
            await asyncio.sleep(draw.lognormvariate(math.log(mean_s) - SIGMA**2 / 2, SIGMA))
        used = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        message = {"role": "assistant", "content": reply.text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return web.json_response(
            {"id": "stub", "object": "chat.completion", "choices": [choice], "usage": used}
        )

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []})

    def told() -> None:
        try:
            pipe.recv()
        except EOFError:  # whom it serves was killed
            os._exit(1)
        pipe.send((len(calls), calls[0] if calls else math.nan))
        calls.clear()

    async def forever() -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", complete)
        app.router.add_get("/v1/models", models)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        asyncio.get_running_loop().add_reader(pipe.fileno(), told)
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(forever())


# The material --------------------------------------------------------------------


def write_pairs(folder: Path, name: str, pairs: int) -> Path:
    """Pairs with a photograph each; a third of them is safe. What is there is used again."""
    (folder / "photographs").mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    rows = []
    for number in range(pairs):
        draw = random.Random(f"{name} {number}")
        picture = f"photographs/{name}-{number:05d}.jpg"
        if not (folder / picture).exists():
            photograph(draw.getrandbits(32)).save(folder / picture, quality=90)
        risks = {"intent": words(draw, 8), "safe": number % 3 == 0, "category": f"made up {number % 12}"}
        rows.append({"id": f"{number:05d}", "image": picture, "question": f"{words(draw, 15)}?", **risks})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def photograph(seed: int) -> Image.Image:
    """Soft shapes with the noise of a sensor: 1 megapixel, some 300 kB as JPEG."""
    draw = np.random.default_rng(seed)
    shapes = Image.fromarray(draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    noise = draw.integers(-12, 13, (SIDE, SIDE, 1), dtype=np.int16)
    return Image.fromarray(np.clip(np.asarray(shapes) + noise, 0, 255).astype(np.uint8))


def write_config(folder: Path, share: float, url: str, sft_steps: int, rl_steps: int) -> Path:
    """A run with the paper's numbers, the shipped student, and every role behind the server."""

    def sized(number: int) -> int:
        return max(8, round(share * number))

    train, bench = (
        write_pairs(folder, name, sized(pairs)) for name, pairs in (("train", PAIRS), ("bench", BENCH_PAIRS))
    )
    role = {"model": "stub", "base_url": url, "concurrency": 128}
    asked = ("generator", "red", "blue", "evaluator", "attack_judge", "tutor", "target", "judge")
    config = {
        "name": f"rehearsal-{share:g}",
        "student": {"model": "sandbox", "max_turn_tokens": 48, "max_length": 2048, "device": "cpu"},
        "roles": {name: dict(role) for name in asked},
        "seeds": {
            "sources": [
                {"name": "made-up", "path": str(train.resolve())},
                {"name": "made-up-bench", "path": str(bench.resolve()), "use": "bench"},
            ]
        },
        "assembly": {"bench_dialogues": sized(BENCH)},
        "bootstrap": {"dialogues": sized(DIALOGUES), "sft": {"max_steps": sft_steps, "batch_size": 16}},
        "rl": {
            "seeds": sized(SEEDS),
            "prompts_per_step": min(64, sized(SEEDS)),
            "steps": rl_steps,
            "max_completion_tokens": 1200,
        },
        "bench": {"suites": ["steer"], "models": ["safer_steer"]},
    }
    path = folder / f"rehearsal-{share:g}.yaml"
    path.write_text(yaml.dump(config, sort_keys=False))
    return path


# The commands --------------------------------------------------------------------


@dataclass
class Cost:
    """What a command took. `first` is the time to its first call, `resumed` the same after a kill."""

    wall: float
    cpu: float
    memory: float
    calls: int = 0
    first: float = math.nan
    resumed: float = math.nan
    again: float = math.nan


def run(command: Sequence[str], pipe: Connection, kill_at: Callable[[], bool] | None = None) -> Cost:
    """A command to its end, or killed once `kill_at` holds. Raises `SystemExit` with its output if it
    fails."""
    pipe.send("begin")
    pipe.recv()
    with tempfile.TemporaryFile() as said:
        begun, killed, pid = time.monotonic(), False, 0
        process = subprocess.Popen([sys.executable, "-m", "safer_steer", *command], stdout=said, stderr=said)
        looked = begun
        while not pid:
            time.sleep(0.05)
            if kill_at is not None and not killed and time.monotonic() - looked > LOOK_S:
                looked = time.monotonic()
                killed = kill_at()
                if killed:
                    process.kill()
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
        wall = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (ExitCode.DONE, ExitCode.NO_RESULT) and not killed:
            said.seek(0)
            raise SystemExit(f"safer-steer {' '.join(command)}:\n{said.read().decode(errors='replace')}")
    pipe.send("end")
    calls, first = pipe.recv()
    cost = Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3, calls, first - begun)
    print(f"{command[0]}{' (killed)' * killed}: {cost}", file=sys.stderr, flush=True)
    return cost


def killed_and_resumed(command: Sequence[str], pipe: Connection, half: Callable[[], bool]) -> Cost:
    """A command that is killed in its middle, started again, and a third time when it is done."""
    first = run(command, pipe, half)
    second = run(command, pipe)
    again = run(command, pipe)
    return Cost(
        first.wall + second.wall,
        first.cpu + second.cpu,
        max(first.memory, second.memory),
        first.calls + second.calls,
        first.first,
        second.first,
        again.wall,
    )


def rows_in(folder: Path, pattern: str) -> int:
    """The rows of files that may be written to at the moment."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(pattern) if path.is_file())


def measure(config: Path, folder: Path, url: str, pipe: Connection) -> dict[str, Cost]:
    """Every command at one size."""
    source = config.parent
    settings: dict[str, Any] = yaml.safe_load(config.read_text())
    at = ("--out", str(folder / "run"), "--no-check")
    made, measured = folder / "run", folder / "bench"
    pairs = rows_in(source, "train.jsonl") + rows_in(source, "bench.jsonl")
    played = settings["bootstrap"]["dialogues"]
    costs = {
        "seeds": killed_and_resumed(
            ("seeds", str(config), *at), pipe, lambda: rows_in(made, "seeds/journal/*.jsonl") > pairs / 2
        ),
        "assemble": run(("assemble", str(config), *at), pipe),
        "bootstrap": killed_and_resumed(
            ("bootstrap", str(config), *at),
            pipe,
            lambda: rows_in(made, "bootstrap/journal.jsonl") > played / 2,
        ),
        "sft": run(("sft", str(config), *at), pipe),
        "rl": run(("rl", str(config), *at), pipe),
    }
    suites = sorted(made.glob("splits/bench/*.jsonl"))
    command = ["bench", *(part for name in MODELS for part in ("--model", name)), "--base-url", url]
    command += [part for suite in suites for part in ("--suite", str(suite))]
    command += [
        "--judge-model",
        "judge",
        "--judge-base-url",
        url,
        "--set",
        "roles.*.concurrency=128",
        "--no-check",
    ]
    scripts = sum(rows_in(suite.parent, suite.name) for suite in suites)
    costs["bench, three models"] = killed_and_resumed(
        (*command, "--out", str(measured)),
        pipe,
        lambda: rows_in(measured, "bench/*/*.jsonl") > len(MODELS) * scripts / 2,
    )
    costs |= {
        "report, of the bench": run(("report", str(measured)), pipe),
        "report, of the run": run(("report", str(made)), pipe),
        "health": run(("health", str(made)), pipe),
        "verify": run(("verify", str(made)), pipe),
        "export": run(("export", str(made), "--to", str(folder / "export")), pipe),
    }
    return costs


# The table -----------------------------------------------------------------------


def seconds(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:,.1f}"


def print_costs(share: float, costs: dict[str, Cost]) -> None:
    print(f"\nShare {share:g}\n")
    print("| command | calls | wall, s | CPU, s | peak MB | first call, s | after the kill, s | again, s |")
    print("|---" * 8 + "|")
    for name, cost in costs.items():
        numbers = [f"{cost.calls:,}", seconds(cost.wall), seconds(cost.cpu), f"{cost.memory:,.0f}"]
        numbers += [seconds(cost.first), seconds(cost.resumed), seconds(cost.again)]
        print(f"| {name} | {' | '.join(numbers)} |", flush=True)


def print_growth(smaller: tuple[float, dict[str, Cost]], larger: tuple[float, dict[str, Cost]]) -> None:
    """How much more a command takes of processor time and memory at the larger size; the data grow by the
    first number."""
    times = larger[0] / smaller[0]
    print(f"\nGrowth from {smaller[0]:g} to {larger[0]:g}: the data grow {times:.1f} times.\n")
    print("| command | calls | CPU | peak memory | faster than the data |\n" + "|---" * 5 + "|")
    for name, cost in larger[1].items():
        before = smaller[1][name]
        calls = f"{cost.calls / before.calls:.1f} x" if before.calls else NONE
        cpu, memory = cost.cpu / before.cpu, cost.memory / before.memory
        print(f"| {name} | {calls} | {cpu:.1f} x | {memory:.1f} x | {'yes' if cpu > 1.1 * times else 'no'} |")


def print_files(folder: Path) -> None:
    """Files and bytes of a run, by its folders, and the sizes of the pages."""
    print("\n| folder or page | files | MB |\n" + "|---" * 3 + "|")
    for part in (*(f"run/{name}" for name in PARTS), "bench", "export"):
        files = [path for path in (folder / part).rglob("*") if path.is_file()]
        print(f"| {part} | {len(files):,} | {sum(path.stat().st_size for path in files) / 1e6:,.1f} |")
    for part in ("run/cache.sqlite", "run/report.html", "bench/report.html"):
        if (folder / part).exists():
            print(f"| {part} | 1 | {(folder / part).stat().st_size / 1e6:,.1f} |")


def print_training(folder: Path, costs: dict[str, Cost], config: Path) -> None:
    """Steps taken, seconds of one, and what the paper's number of steps would take at that pace."""
    settings = yaml.safe_load(config.read_text())
    kept = rows_in(folder, "run/bootstrap/kept.jsonl")
    print(
        "\n| training | steps | s a step (with the start) | steps in all | to the end, h |\n"
        + "|---" * 5
        + "|"
    )
    sft, rl = settings["bootstrap"]["sft"], settings["rl"]
    all_steps = {
        "sft": 2 * math.ceil(kept / sft["batch_size"]),
        "rl": math.ceil(rl["seeds"] / rl["prompts_per_step"]),
    }
    for name, taken in (("sft", sft["max_steps"]), ("rl", rl["steps"])):
        pace = costs[name].wall / taken
        steps = all_steps[name]
        print(f"| {name} | {taken} | {pace:.1f} | {steps:,} | {pace * steps / 3600:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, nargs="+", default=[0.01, 0.1], help="of the paper's sizes")
    parser.add_argument("--latency", type=float, default=1.0, help="mean, in seconds")
    parser.add_argument("--sft-steps", type=int, default=4)
    parser.add_argument("--rl-steps", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="folder for photographs and runs")
    args = parser.parse_args()
    sizes = list[tuple[float, dict[str, Cost]]]()
    for share in sorted(args.share):
        folder = args.out / f"run-{share:g}"
        shutil.rmtree(folder, ignore_errors=True)
        with serving(args.latency, serve) as (url, pipe):
            config = write_config(args.out / "source", share, url, args.sft_steps, args.rl_steps)
            costs = measure(config, folder, url, pipe)
        print_costs(share, costs)
        print_training(folder, costs, config)
        print_files(folder)
        sizes.append((share, costs))
    for smaller, larger in pairwise(sizes):
        print_growth(smaller, larger)


if __name__ == "__main__":
    main()
