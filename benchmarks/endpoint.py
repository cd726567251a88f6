"""Measures the client cost of a model call, and the time saved by judging a dialogue's turns in parallel.

    python benchmarks/endpoint.py                # the tables, and which targets are met; about two minutes
    python benchmarks/endpoint.py --markdown     # the tables as in docs/explanation/performance.md

The endpoint is a stub: an HTTP server in its own process that answers every call with the same verdict after
a seeded latency. The variants run one after the other, each in a fresh process against a fresh stub.

Calls: 2,000 judgements of distinct questions on 50 pictures of 30 kB, 256 in flight. *Ours* is
`ChatModel.ask(JUDGE)` in one thread, with all its work: prompt rendering, picture lookup, cache (a fresh
SQLite file), ledger, and validation of the verdict. The *thread pool* is the common pattern: 256 threads, one
`openai.OpenAI` client per thread, the picture read and base64-encoded again for each call. In its favour, its
prompts are rendered beforehand and it has no cache. Both send the same messages. The clock starts after 256
warm-up calls, which open clients and connections.

Judging: 120 dialogues of 2-10 turns through `play_all`, 64 dialogues in play, assistant answers without
delay, 0.3 s mean latency. *One after the other* waits for each verdict before the next turn; *side by side*
is what the bench does.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import multiprocessing
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PICTURES = 50
SIDE = 100
"""Width and height in pixels. The picture is noise: 3 bytes per pixel, which PNG cannot compress."""
VERDICT = (
    '{"harmlessness": 3, "helpfulness": 2, "refused": false,'
    ' "reason": "It declines and names a safe alternative."}'
)
LATENCY_S = 0.3
IN_PLAY = 64
SPAWN = multiprocessing.get_context("spawn")


@dataclass
class Cost:
    """The cost of a number of calls: wall-clock seconds, CPU seconds of the calling process, and its peak
    memory in MB."""

    calls: int
    wall: float
    cpu: float
    memory: float

    @property
    def ms(self) -> float:
        """CPU milliseconds per call."""
        return 1000 * self.cpu / self.calls

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.wall


# The stub ------------------------------------------------------------------------


def stub(ready: Connection, mean_s: float) -> None:
    """Serve on a free port and send its number through `ready`. The latency of call n is the n-th value of a
    seeded sequence, uniform from 0.5 to 1.5 times the mean."""
    from aiohttp import web

    jitter = random.Random(0)
    message = {"role": "assistant", "content": VERDICT}
    usage = {"prompt_tokens": 900, "completion_tokens": 30, "total_tokens": 930}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    reply = {
        "id": "stub",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": choices,
        "usage": usage,
    }

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        latency = mean_s * jitter.uniform(0.5, 1.5)
        await request.read()
        if latency:
            await asyncio.sleep(latency)
        return web.json_response(reply)

    async def serve() -> None:
        server = web.ServerRunner(web.Server(answer))
        await server.setup()
        await web.TCPSite(server, "127.0.0.1", 0, backlog=1024).start()
        ready.send(server.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(serve())


@contextmanager
def running(target: Callable[..., None], *args: Any) -> Iterator[Connection]:
    """Run `target` in a fresh process with one end of a pipe and yield the other end. The process is
    terminated at the end of the block."""
    here, there = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=target, args=(there, *args), daemon=True)
    process.start()
    there.close()  # so that the death of the process raises an error here instead of blocking
    try:
        yield here
    finally:
        process.terminate()
        process.join()


def measured(variant: Callable[..., Cost], mean_s: float, *args: Any) -> Cost:
    """One variant in a fresh process against a fresh stub."""
    with (
        running(stub, mean_s) as port,
        running(_tell, variant, f"http://127.0.0.1:{port.recv()}/v1", *args) as told,
    ):
        cost: Cost = told.recv()
    return cost


def _tell(told: Connection, variant: Callable[..., Cost], *args: Any) -> None:
    told.send(variant(*args))


@contextmanager
def clock(calls: int) -> Iterator[Cost]:
    """Measure the block. The yielded `Cost` is filled in at the end of the block."""
    cost = Cost(calls, 0, 0, 0)
    wall, cpu = time.perf_counter(), time.process_time()
    yield cost
    cost.wall, cost.cpu = time.perf_counter() - wall, time.process_time() - cpu
    cost.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform == "darwin" else 1e3
    )


# Calls ---------------------------------------------------------------------------


def draw(folder: Path) -> list[str]:
    """Write distinct pictures of noise; returns their file names."""
    from PIL import Image

    noise = random.Random(0)
    names = [f"{number}.png" for number in range(PICTURES)]
    for name in names:
        Image.frombytes("RGB", (SIDE, SIDE), noise.randbytes(3 * SIDE * SIDE)).save(folder / name)
    return names


def question(number: int) -> Any:
    """The judge's input in call `number`: a third turn, after about a hundred words of history."""
    from safer_steer.prompts.base import Exchange
    from safer_steer.prompts.judge import JudgeInput

    before = [
        Exchange(
            user=f"Turn {turn} of dialogue {number}. " + "What is this part for? " * 8,
            assistant="It holds the lid. " * 20,
        )
        for turn in range(2)
    ]
    return JudgeInput(
        history=before,
        question=f"And what comes after step {number}?",
        answer="I will not go into that; the lid should stay shut. " * 4,
    )


@asynccontextmanager
async def judge(url: str, folder: Path, in_flight: int) -> AsyncIterator[Any]:
    """A judge that calls the stub, with a fresh cache in `folder` and a ledger."""
    from safer_steer.config import Role
    from safer_steer.endpoints.cache import Cache
    from safer_steer.endpoints.chat import ChatModel
    from safer_steer.endpoints.endpoint import EndpointTransport
    from safer_steer.endpoints.ledger import Ledger

    role = Role(model="stub", base_url=url, concurrency=in_flight, temperature=0, price_in=1, price_out=4)
    ledger = Ledger(limit=1000)
    transport = EndpointTransport(role, ledger.may_spend)
    cache = Cache(folder / "cache.sqlite")
    yield ChatModel("judge", role, transport, cache, ledger)
    cache.close()
    await transport.aclose()


def ours(url: str, pictures: Path, names: list[str], calls: int, in_flight: int) -> Cost:
    """`ChatModel.ask` in one thread."""
    from safer_steer.files.images import load_picture
    from safer_steer.prompts.judge import JUDGE

    async def run(folder: Path) -> Cost:
        async with judge(url, folder, in_flight) as model:

            async def ask(numbers: Iterator[int]) -> None:
                for number in numbers:
                    await model.ask(
                        JUDGE,
                        question(number),
                        [load_picture(pictures, names[number % len(names)], SIDE * SIDE)],
                    )

            async def window(numbers: Iterator[int]) -> None:
                await asyncio.gather(*(ask(numbers) for _ in range(in_flight)))

            await window(iter(range(calls, calls + in_flight)))
            with clock(calls) as cost:
                await window(iter(range(calls)))
            return cost

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(run(Path(folder)))


def thread_pool(url: str, pictures: Path, names: list[str], calls: int, in_flight: int) -> Cost:
    """One client per thread; the picture is encoded for every call."""
    import openai

    from safer_steer.prompts.judge import JUDGE, JudgeVerdict

    rendered = [JUDGE.render(question(number)) for number in range(calls + in_flight)]
    response_format: Any = {
        "type": "json_schema",
        "json_schema": {"name": "JudgeVerdict", "schema": JUDGE.schema()},
    }
    own = threading.local()

    def ask(number: int) -> JudgeVerdict:
        if not hasattr(own, "client"):
            own.client = openai.OpenAI(base_url=url, api_key="none")
        encoded = base64.b64encode((pictures / names[number % len(names)]).read_bytes()).decode()
        system, user = rendered[number]
        content = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
            {"type": "text", "text": user},
        ]
        completion = own.client.chat.completions.create(
            model="stub",
            messages=[{"role": "system", "content": system}, {"role": "user", "content": content}],
            temperature=0,
            top_p=1,
            max_tokens=2048,
            response_format=response_format,
        )
        return JudgeVerdict.model_validate_json(completion.choices[0].message.content)

    all_there = threading.Barrier(in_flight)

    def first(number: int) -> None:
        all_there.wait()  # so every thread of the pool opens its client
        ask(number)

    with ThreadPoolExecutor(in_flight) as pool:
        list(pool.map(first, range(calls, calls + in_flight)))
        with clock(calls) as cost:
            list(pool.map(ask, range(calls)))
    return cost


# Judging -------------------------------------------------------------------------


def judging(
    url: str, pictures: Path, names: list[str], dialogues: int, in_flight: int, side_by_side: bool
) -> Cost:
    """Judge a suite's dialogues through `play_all`, with at most `in_flight` calls."""
    from safer_steer.bench.judging import JudgeCritic
    from safer_steer.dialogue import Dialogue, Format, Kind, Seed, Turn
    from safer_steer.episode import Reply
    from safer_steer.episodes import play_all
    from safer_steer.files.images import pictures_in

    class AtHand:
        async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
            return Reply(f"The answer to: {asked.user}")

    class OneAfterTheOther(JudgeCritic):
        immediate = True

    def seed(number: int, turns: int) -> Seed:
        script = [Turn(user=f"Turn {turn} of dialogue {number}.") for turn in range(turns)]
        return Seed(id=f"d{number}", kind=Kind.RED_TEAM, images=[names[number % len(names)]], turns=script)

    lengths = random.Random(1)
    suite = [seed(number, lengths.randint(2, 10)) for number in range(dialogues)]

    async def run(folder: Path) -> Cost:
        async with judge(url, folder, in_flight) as model:
            critic = (JudgeCritic if side_by_side else OneAfterTheOther)(
                model, Format.PLAIN, pictures_in(pictures, SIDE * SIDE)
            )
            await play_all([seed(dialogues, 2)], AtHand(), critic, folder / "first.jsonl")
            with clock(sum(len(seed.turns) for seed in suite)) as cost:
                played = await play_all(suite, AtHand(), critic, folder / "suite.jsonl", concurrency=IN_PLAY)
            assert all(turn.scores for dialogue in played for turn in dialogue.turns), (
                "every turn must have its verdict"
            )
            return cost

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(run(Path(folder)))


# The tables ----------------------------------------------------------------------

Row = tuple[str, ...]


def calls_table(pictures: Path, names: list[str], calls: int, in_flight: int) -> tuple[list[Row], list[Row]]:
    """Rows of costs, and rows of targets."""
    rows: list[Row] = [("mean latency", "client", "CPU a call", "calls a second", "wall", "peak memory")]
    found = {}
    for mean_s in (LATENCY_S, 0.0):
        for name, variant in (("ours", ours), ("thread pool", thread_pool)):
            cost = found[mean_s, name] = measured(variant, mean_s, pictures, names, calls, in_flight)
            rows.append(
                (
                    f"{mean_s:g} s",
                    name,
                    f"{cost.ms:.2f} ms",
                    f"{cost.rate:.0f}",
                    f"{cost.wall:.2f} s",
                    f"{cost.memory:.0f} MB",
                )
            )
    slow, their_slow, fast, theirs = found.values()
    return rows, [
        target(f"CPU a call at {LATENCY_S:g} s latency", slow.ms, 3, "ms"),
        target(
            f"CPU a call at {LATENCY_S:g} s latency, ours to the thread pool's",
            slow.ms / their_slow.ms,
            0.5,
            "x",
        ),
        target("CPU a call at zero latency, ours to the thread pool's", fast.ms / theirs.ms, 0.5, "x"),
        target(
            "calls a second at zero latency, ours to the thread pool's",
            fast.rate / theirs.rate,
            2,
            "x",
            least=True,
        ),
    ]


def judging_table(pictures: Path, names: list[str], dialogues: int) -> tuple[list[Row], list[Row]]:
    """Rows of wall times, and rows of targets."""
    rows: list[Row] = [
        ("turns of a dialogue", "calls in flight, at most", "calls", "wall", "to the first row")
    ]
    walls: list[float] = []
    for side_by_side, in_flight in ((False, IN_PLAY), (True, IN_PLAY), (True, 10 * IN_PLAY)):
        cost = measured(judging, LATENCY_S, pictures, names, dialogues, in_flight, side_by_side)
        walls.append(cost.wall)
        order = "side by side" if side_by_side else "one after the other"
        rows.append(
            (order, str(in_flight), str(cost.calls), f"{cost.wall:.2f} s", f"{cost.wall / walls[0]:.2f} x")
        )
    return rows, [
        target(f"judging side by side, {IN_PLAY} calls in flight in both", walls[1] / walls[0], 0.4, "x"),
        target(f"judging side by side, {IN_PLAY} dialogues in play in both", walls[2] / walls[0], 0.4, "x"),
    ]


def target(what: str, value: float, bound: float, unit: str, least: bool = False) -> Row:
    met = value >= bound if least else value <= bound
    return (
        what,
        f"{value:.2f} {unit}",
        f"at {'least' if least else 'most'} {bound:g} {unit}",
        "yes" if met else "no",
    )


def table(rows: list[Row], markdown: bool) -> str:
    """The rows as an aligned table; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    rule = ["-" * width for width in widths]
    return "\n".join(
        f"| {' | '.join(line)} |" if markdown else "  ".join(line).rstrip()
        for line in (lines[0], rule, *lines[1:])
    )


def main() -> None:
    """Run all measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000, help="calls a variant")
    parser.add_argument("--in-flight", type=int, default=256, help="of them at once")
    parser.add_argument("--dialogues", type=int, default=120, help="dialogues to judge")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        pictures = Path(name)
        names = draw(pictures)
        calls, first_targets = calls_table(pictures, names, args.calls, args.in_flight)
        judged, more_targets = judging_table(pictures, names, args.dialogues)
    for rows in (calls, judged, [("target", "found", "wanted", "met"), *first_targets, *more_targets]):
        print(table(rows, args.markdown), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
