"""Every fault at once, and kill -9 at seeded moments: what a run ends with is what it ends with where nothing
fails, and nothing is paid twice.

The plan of faults is `fault_server.py`'s; the stages run in a process of their own, `faults_run.py`, which is
killed and started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from endpoint_server import EndpointServer, says
from fault_server import RATES
from places import SUPPORT
from safer_steer.config import Role
from safer_steer.data.bootstrap.rollout import roll_out
from safer_steer.data.seeds.pools import read_pools
from safer_steer.dialogue import Kind, StopReason, read_dialogues
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.endpoints.transport import ChatReply, ContextLengthError
from safer_steer.errors import EndpointError, UserError
from safer_steer.report.health import examine
from seeds_run import Watched
from student_parts import tiny_config, write_seeds

ROLES = ("generator", "target", "attack_judge", "red", "blue", "evaluator", "judge")
CONCURRENCY = 16
IN_FLIGHT = 3 * CONCURRENCY
"""Calls at once: three roles are asked in a stage."""


@dataclass
class Server:
    """The server's address, and what it answered."""

    url: str
    folder: Path

    def answers(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / f"{name}.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]


Kills = list[tuple[int, set[int]]]
"""For each kill of a run: how many answers had been sent, and which of them the cache held."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT / "fault_server.py"), str(folder), "11"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield Server(process.stdout.readline().strip(), folder)
    process.kill()
    process.communicate()


def start(server: Server, name: str, folder: Path, *stages: str) -> subprocess.Popen[str]:
    """The stages on 24 pairs, or the bench on a few dialogues, with every role at the server's `name`."""
    role = {
        "model": "served",
        "base_url": f"{server.url}/{name}/v1",
        "concurrency": CONCURRENCY,
        "timeout_s": 3,
        "retries": 8,
    }
    config = {
        "roles": dict.fromkeys(ROLES, role),
        "seeds": {"sources": [{"limit": 24}], "max_turns": 4},
        "bench": {"dialogues": 10, "resamples": 20},
    }
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, str(SUPPORT / "faults_run.py"), str(path), str(folder), *stages]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(server: Server, name: str, folder: Path, *stages: str) -> list[str]:
    """Run to the end; where an endpoint gave no answer, once more, as the error says. Returns those
    errors."""
    errors: list[str] = []
    while True:
        process = start(server, name, folder, *stages)
        said = process.communicate()[1]
        if process.returncode == 0:
            return errors
        errors.append(said.splitlines()[-1])
        assert process.returncode == 2 and "run the same command" in errors[-1] and len(errors) < 5, said


def kill_at(server: Server, name: str, folder: Path, moments: list[int], *stages: str) -> Kills:
    """Kill -9 whenever so many answers have been sent, and start again; then run to the end."""
    kills: Kills = []
    for moment in moments:
        process = start(server, name, folder, *stages)
        while process.poll() is None and len(server.answers(name)) < moment:
            time.sleep(0.001)
        assert process.poll() is None, f"ended before {moment} answers: {process.communicate()[1]}"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.1)  # what was on its way is noted by the server
        kills.append((len(server.answers(name)), cached(folder)))
    finish(server, name, folder, *stages)
    return kills


def cached(folder: Path) -> set[int]:
    """Which answers the cache holds, by their numbers."""
    with sqlite3.connect(f"file:{folder / 'cache.sqlite'}?mode=ro", uri=True) as cache:
        return {serial for (serial,) in cache.execute("SELECT prompt_tokens FROM replies")}


def moments(answers: int, kills: int) -> list[int]:
    """One moment in each of so many equal parts of the work, at random."""
    rng = random.Random(23)
    return [int(answers * (part + rng.uniform(0.1, 0.9)) / kills) for part in range(kills)]


def nothing_is_paid_twice(server: Server, name: str, folder: Path, kills: Kills) -> None:
    """Every answer is in the cache, but those that were on their way at a kill."""
    kept = cached(folder)
    answers = server.answers(name)
    assert len({answer["serial"] for answer in answers}) == len(answers)
    wasted = [place for place, answer in enumerate(answers) if answer["serial"] not in kept]
    for until, held in kills:
        assert held <= kept, "what was committed stays"
        here = [place for place in wasted if until - 2 * IN_FLIGHT <= place < until]
        assert len(here) <= IN_FLIGHT
        wasted = [place for place in wasted if place not in here]
    assert wasted == [], "an answer was lost, or paid for again, though no kill was near"


def files(folder: Path, *patterns: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
    }


def rows(folder: Path, *patterns: str) -> dict[str, dict[str, Any]]:
    """The journals' rows by file and id, each of them once."""
    found: dict[str, dict[str, Any]] = {}
    for name, content in files(folder, *patterns).items():
        assert content.endswith(b"\n")
        for line in content.splitlines():
            row = json.loads(line)
            assert f"{name} {row['id']}" not in found, f"{name}: {row['id']} is there twice"
            found[f"{name} {row['id']}"] = row
    return found


def test_stages_one_and_two(server: Server, tmp_path: Path) -> None:
    stages = ("seeds", "bootstrap")
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    assert finish(server, "calm", calm, *stages) == []
    answers = server.answers("calm")
    assert len(answers) == len(cached(calm))

    kills = kill_at(server, "rough", rough, moments(len(answers), kills=6), *stages)
    assert set((server.folder / "rough.faults").read_text().splitlines()) == {
        *RATES,
        "busy",
        "busy, come back",
    }, "every fault struck"

    results = ("seeds/*.jsonl", "images/*", "bootstrap/kept.jsonl", "bootstrap/rejected.jsonl")
    assert files(rough, *results) == files(calm, *results)
    assert all(files(calm, *results).values()), "something was kept, dropped and rejected"
    journals = ("seeds/journal/*.jsonl", "bootstrap/journal.jsonl")
    assert rows(rough, *journals) == rows(calm, *journals)
    nothing_is_paid_twice(server, "rough", rough, kills)


def test_the_bench(server: Server, tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    assert finish(server, "calm-bench", calm, "bench") == []
    kills = kill_at(
        server, "rough-bench", rough, moments(len(server.answers("calm-bench")), kills=3), "bench"
    )
    assert (rough / "summary.json").read_bytes() == (calm / "summary.json").read_bytes()
    assert rows(rough, "bench/*/*.jsonl").keys() == rows(calm, "bench/*/*.jsonl").keys()
    nothing_is_paid_twice(server, "rough-bench", rough, kills)


async def test_a_body_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is for the whole reply: headers and a first piece do not extend it."""
    monkeypatch.setattr(EndpointTransport, "first_wait_s", 0.01)

    async def trickles(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for _ in range(100):
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response

    async with EndpointServer(trickles, says("good")) as server:
        transport = EndpointTransport(Role(model="m", base_url=server.url, timeout_s=0.3))
        begun = time.monotonic()
        assert (await transport.complete([{"role": "user", "content": "hello"}])).text == "good"
        assert 0.3 <= time.monotonic() - begun < 3
        await transport.aclose()


@pytest.mark.parametrize("job", ["red", "blue", "evaluator"])
async def test_a_dialogue_too_long_for_a_model_of_stage_two_is_data_and_the_stage_ends(
    tmp_path: Path, job: str
) -> None:
    """Else the stage would ask for the same dialogue for ever."""
    write_seeds(tmp_path, 8)

    def reply(asked: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
        if asked == job and len(json.loads(given["history"])) == 2:
            raise ContextLengthError("3000 of 2048 tokens")
        return None

    with contextlib.suppress(UserError):  # where no dialogue of three turns is left, none may pass the filter
        await roll_out(tiny_config(), tmp_path, lambda name: ChatModel(name, Role(), Watched(reply)))
    rows = read_dialogues(tmp_path / "bootstrap" / "journal.jsonl")
    assert len(rows) == len(read_pools(tmp_path, list(Kind)))
    cut = [row for row in rows if len(row.turns) == 3 or row.stop != StopReason.COMPLETED]
    assert cut
    for row in cut:
        if job == "red":
            assert row.turns[2].meta["attacker"] == {"faults": ["rejected"] * 2, "approach": "template"}
        else:
            said = row.meta["error"] if job == "blue" else row.turns[2].meta["unscored"]
            assert said == "rejected: 3000 of 2048 tokens"


async def test_dialogues_that_never_get_an_answer_may_be_left_out(tmp_path: Path) -> None:
    """A web firewall bars some scripts' second turn: the rest goes on, and they are counted as rejected."""
    seeds = write_seeds(tmp_path, 8)
    barred = next(seed for seed in seeds if seed.kind is Kind.OBFUSCATED)

    def reply(asked: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
        if asked == "red" and given["template"] == barred.turns[1].user:
            raise EndpointError("HTTP 403: a web page")
        return None

    async def play(most: float) -> list[str]:
        settings = tiny_config(bootstrap={"max_unanswered": most})
        return await roll_out(settings, tmp_path, lambda name: ChatModel(name, Role(), Watched(reply)))

    folder, key = tmp_path / "bootstrap", r"bootstrap\.max_unanswered"
    with pytest.raises(UserError, match=rf"{barred.id}.* HTTP 403: a web page; .*raise {key} to 0\."):
        await play(0)
    assert not (folder / "kept.jsonl").exists()
    [said] = await play(0.5)
    assert "got no answer from an endpoint and are left out (bootstrap.max_unanswered is 0.5)" in said
    lost = [row for row in read_dialogues(folder / "rejected.jsonl") if row.meta["reasons"] == ["unanswered"]]
    assert barred.id in {row.id for row in lost}
    played = {row.id for row in read_dialogues(folder / "journal.jsonl")}
    assert not played & {row.id for row in lost} and len(played) + len(lost) == len(seeds)
    assert examine(tmp_path).as_dict()["unanswered"] == [{"stage": "bootstrap", "left_out": len(lost)}]


async def test_dialogues_that_none_pass_the_filter_say_what_was_asked_and_what_was_reached(
    tmp_path: Path,
) -> None:
    write_seeds(tmp_path, 4)
    turns = itertools.count()

    def reply(asked: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
        safety = 7 if next(turns) % 2 else 6
        verdict = {"reason": "so", "safety": safety, "helpfulness": 9}
        return ChatReply(json.dumps(verdict)) if asked == "evaluator" else None

    settings = tiny_config(bootstrap={"tau_safe": 8, "tau_help": 9.5})
    with pytest.raises(UserError) as ended:
        await roll_out(settings, tmp_path, lambda name: ChatModel(name, Role(), Watched(reply)))
    rows = read_dialogues(tmp_path / "bootstrap" / "rejected.jsonl")
    safest = max(min(turn.scores["safety"] for turn in row.turns if turn.scores) for row in rows)
    assert (
        f"none of {len(rows)} dialogues passed the filter: {len(rows)} unsafe, {len(rows)} unhelpful"
        in str(ended.value)
    )
    assert (
        f"the safest has {safest:g} at its worst turn, bootstrap.tau_safe asks for 8; the most helpful has 9"
        " on average, bootstrap.tau_help asks for 9.5"
    ) in str(ended.value)


async def test_a_stage_that_ends_without_a_result_names_the_commonest_error(tmp_path: Path) -> None:
    write_seeds(tmp_path, 4)

    def reply(asked: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
        return ChatReply("hm") if asked == "evaluator" else None

    with pytest.raises(UserError, match=r"none of .* the commonest error: unparsable: evaluator: no valid"):
        await roll_out(tiny_config(), tmp_path, lambda name: ChatModel(name, Role(), Watched(reply)))
