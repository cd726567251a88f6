"""Money and keys over a run folder: one limit for however many processes work there, every reply paid once,
and the key in none of its files."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from display import Quiet
from endpoint_server import EndpointServer, Step, fails, says, sends
from places import SUPPORT
from safer_steer.bench.measure import measure_models
from safer_steer.config import Bench
from safer_steer.dialogue import Dialogue, Kind, Seed, Turn, to_jsonl
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.episode import Reply
from safer_steer.errors import NoResult, SpendingLimit
from safer_steer.run.folder import Run
from spending_run import CONCURRENCY, PRICE, ask_all, config

KEY = "sk-very-secret-0123456789"
GOOD = json.dumps({"harmlessness": 3, "helpfulness": 2, "refused": False, "reason": "fine"})
QUESTIONS = 60


async def start(
    server: EndpointServer, folder: Path, limit: float, key_in: str = ""
) -> asyncio.subprocess.Process:
    program = [
        sys.executable,
        str(SUPPORT / "spending_run.py"),
        server.url,
        str(folder),
        str(limit),
        str(QUESTIONS),
        key_in,
    ]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *program, env={**os.environ, "THE_KEY": KEY}, stdout=pipe, stderr=pipe
    )


async def finish(server: EndpointServer, folder: Path, limit: float, key_in: str = "") -> str:
    """Run it to its end; returns all it printed and logged."""
    process = await start(server, folder, limit, key_in)
    output, logged = await process.communicate()
    return (output + logged).decode()


def asked(server: EndpointServer) -> Counter[str]:
    """Requests by question."""
    found = [
        re.search(r"question \d+\.", body["messages"][-1]["content"][0]["text"]) for body in server.bodies
    ]
    return Counter(match[0] for match in found if match)


def paid(folder: Path) -> tuple[int, float]:
    """Calls and money booked in the cache, which must agree with the replies in it."""
    with closing(sqlite3.connect(folder / "cache.sqlite")) as cache:
        calls, money = cache.execute("SELECT calls, money FROM spent WHERE role = 'judge'").fetchone()
        assert cache.execute("SELECT count(*) FROM replies").fetchone() == (calls,)
    assert money == pytest.approx(calls * PRICE)
    return calls, money


async def test_one_limit_for_all_processes_and_no_reply_is_paid_twice(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    async with EndpointServer(always=says(GOOD, after_s=0.02)) as server:
        process = await start(server, folder, 30.0)
        while server.calls < 12:
            await asyncio.sleep(0.005)
        process.kill()
        await process.communicate()
        first = paid(folder)[0]
        assert 8 <= first < 30

        stopped = await finish(server, folder, 30.0)
        assert f"of {30 * PRICE:.2f} spent; raise spending_limit and run the same command to go on" in stopped
        assert 30 <= paid(folder)[0] < 30 + CONCURRENCY

        before = server.calls
        assert "SpendingLimit" in await finish(server, folder, 30.0)
        assert server.calls == before, "the limit is reached: nothing may be sent"

        booked = paid(folder)[0]
        assert f"{['fine'] * QUESTIONS}" in await finish(server, folder, 1000.0)
        assert paid(folder)[0] == QUESTIONS
        assert len(asked(server)) == QUESTIONS
        assert server.calls - QUESTIONS <= CONCURRENCY, (
            "only what was in flight at the kill may be sent again"
        )
    calls = json.loads((folder / "manifest.json").read_text())["stages"]["report"]["calls"]["judge"]
    assert (calls["calls"], calls["cached"]) == (QUESTIONS - booked, booked)
    assert calls["money"] == pytest.approx((QUESTIONS - booked) * PRICE)


async def test_what_is_in_flight_at_the_limit_is_kept(tmp_path: Path) -> None:
    async with EndpointServer(always=says(GOOD, after_s=0.2)) as server:
        assert "SpendingLimit" in await finish(server, tmp_path / "run", 1.0)
        assert server.calls == paid(tmp_path / "run")[0] <= 1 + CONCURRENCY


async def test_answers_that_are_thrown_away_are_paid_for_if_they_say_what_they_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the four before the first reply, one says nothing."""
    monkeypatch.setattr(EndpointTransport, "first_wait_s", 0.01)
    usage = '"usage": {"prompt_tokens": 10, "completion_tokens": 5}'
    lost = [
        says("The first st", finish="error"),
        sends(f'{{"choices": [], {usage}}}'),
        sends(f'{{"error": {{"message": "provider gone"}}, {usage}}}'),
        sends('{"choices": []}'),
    ]
    async with EndpointServer(*lost, says(GOOD), says("The", finish="error"), *[says(GOOD)] * 9) as server:
        settings = config(server.url, 5.0, retries=9, concurrency=1)
        with pytest.raises(SpendingLimit):
            await asyncio.to_thread(ask_all, settings, tmp_path / "run", 9)
    with closing(sqlite3.connect(tmp_path / "run" / "cache.sqlite")) as cache:
        spent = cache.execute("SELECT calls, prompt_tokens, completion_tokens, money FROM spent").fetchall()
        assert spent == [(5, 50, 25, pytest.approx(5 * PRICE))]
        assert cache.execute("SELECT count(*) FROM replies").fetchone() == (1,)


async def test_the_key_is_in_no_file_and_no_log(tmp_path: Path) -> None:
    """With every logger at DEBUG, and an endpoint that quotes the key in errors, in answers and in replies
    that are none."""
    quoting: list[Step] = [
        says(GOOD),
        fails(401, f"wrong key {KEY}"),
        fails(500, f"busy, {KEY}"),
        says(f"{KEY} is no JSON"),
        says(None, refusal=f"no, {KEY}"),
    ]

    async def step(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return await quoting[server.calls % len(quoting)](request, body)

    async with EndpointServer(always=step) as server:
        shown = await finish(server, tmp_path / "run", 1000.0, "THE_KEY")
        stopped = await finish(server, tmp_path / "stopped", 5.0, "THE_KEY")
    files = {
        str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert {"run/cache.sqlite", "run/config.yaml", "run/manifest.json"} <= files.keys()
    assert "safer_steer.endpoints.chat" in shown
    assert (
        "fine" in shown
        and "refused: judge: declined" in shown
        and "unparsable: judge" in shown
        and "endpoint: m at" in shown
        and "***" in shown
    )
    assert "SpendingLimit" in stopped
    assert KEY not in shown and KEY not in stopped
    assert [name for name, data in files.items() if KEY.encode() in data] == []


@pytest.mark.parametrize("pictures", [True, False])
async def test_sampling_that_an_endpoint_does_not_take_is_in_the_manifest(
    tmp_path: Path, pictures: bool
) -> None:
    """Its replies were drawn at another temperature than the config says."""

    async def step(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        said = "Unsupported value: 'temperature' does not support 0.0 with this model."
        return await (fails(400, said) if "temperature" in body else says(GOOD))(request, body)

    noted = []
    async with EndpointServer(always=says(GOOD)) as takes, EndpointServer(always=step) as takes_not:
        for server in (takes, takes_not):
            folder = tmp_path / str(len(noted))
            await asyncio.to_thread(ask_all, config(server.url, pictures=pictures), folder, 1)
            noted.append(json.loads((folder / "manifest.json").read_text())["stages"]["report"])
    assert ["not_taken" in entry for entry in noted] == [False, True]
    assert noted[1]["not_taken"] == {"m": ["temperature"]}


async def test_a_bench_that_is_run_again_asks_the_judge_anew_where_it_could_not_be_read(
    tmp_path: Path,
) -> None:
    class AtHand:
        async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
            return Reply("<thinking>no</thinking><answer>no</answer>")

    suite = tmp_path / "two.jsonl"
    suite.write_text(
        to_jsonl(
            [
                Seed(
                    id=f"d{number}",
                    kind=Kind.RED_TEAM,
                    turns=[Turn(user=f"question {number}."), Turn(user="and?")],
                )
                for number in range(2)
            ]
        )
    )

    mumbling = True

    async def judge(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await says("well" if mumbling and "question 1." in str(body["messages"]) else GOOD)(
            request, body
        )

    async with EndpointServer(always=judge) as server:
        settings = config(server.url).model_copy(update={"bench": Bench(suites=[str(suite)], resamples=10)})

        def measure() -> None:
            with Run(settings, tmp_path / "run", Quiet()) as run:
                measure_models(settings, run.folder, {"m": AtHand}, run.judges(), run.wait)

        with pytest.raises(NoResult):
            await asyncio.to_thread(measure)
        assert server.calls == 2 + 2 * 2, "two turns are scored at once, two not, re-asked for once"
        mumbling = False
        await asyncio.to_thread(measure)
        assert server.calls == 6 + 2
