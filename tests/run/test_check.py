"""The check before a run: one small request to each model, by real servers of every temper."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from aiohttp import web
from PIL import Image
from typer.testing import Result

from display import safer_steer as command
from endpoint_server import NO_IMAGES, EndpointServer, Step, fails, says, sees_nothing, sends
from raw_server import raw_server
from safer_steer.config import Config, RoleName
from safer_steer.endpoints import clients, gate
from safer_steer.run.calls_check import Checked, check_roles, problems, roles_asked
from safer_steer.run.roles import check_role
from safer_steer.sandbox.agents import SandboxTransport
from safer_steer.stages import STAGES

NOBODY = "http://127.0.0.1:9/v1"
"""The discard port, at which nothing listens."""
VERDICT = json.dumps({"harmlessness": 3, "helpfulness": 2, "refused": False})


async def agents(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """The sandbox's agents, which do every job."""
    reply = await SandboxTransport().complete(body["messages"])
    return await says(reply.text)(request, body)


async def no_schema(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return await (fails(400, "response_format is not supported") if "response_format" in body else agents)(
        request, body
    )


async def safer_steer(*arguments: object) -> Result:
    return await asyncio.to_thread(command, *arguments)


async def checked(server: Step, name: RoleName = "judge", **role: Any) -> Checked:
    """The row of one role."""
    async with EndpointServer(always=server) as endpoint:
        return await checked_at(endpoint.url, name, **role)


async def checked_at(url: str, name: RoleName = "judge", **role: Any) -> Checked:
    settings = {"model": "m", "base_url": url, "retries": 0, "reasks": 1} | role
    config = {"student": {"format": "plain"}, "roles": {name: settings}}
    [found] = await check_roles(Config.model_validate(config), [name])
    return found


def suite(folder: Path) -> Path:
    Image.new("RGB", (20, 10), "teal").save(folder / "a.png")
    row = {"id": "a", "kind": "red_team", "images": ["a.png"], "turns": [{"user": "x"}]}
    (folder / "mine.jsonl").write_text(json.dumps(row) + "\n")
    return folder / "mine.jsonl"


def bench(folder: Path, model: str, judge: str) -> list[object]:
    return [
        *("bench", "--model", "m", "--base-url", model, "--suite", suite(folder), "--out", folder / "run"),
        *("--judge-model", "j", "--judge-base-url", judge),
    ]


async def test_every_role_is_asked_a_job_of_its_own_and_a_model_once(tmp_path: Path) -> None:
    async with EndpointServer(always=agents) as one, EndpointServer(always=no_schema) as other:
        shared = {"model": "shared", "base_url": one.url}
        own = {"model": "own", "base_url": other.url}
        roles = dict.fromkeys(("generator", "target", "attack_judge", "red", "judge"), shared)
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({"roles": roles | dict.fromkeys(("blue", "evaluator"), own)}))
        done = await safer_steer("check", config)
        assert done.exit_code == 0, done.output
        rows = [line.split("  ")[0] for line in done.stdout.splitlines()]
        assert rows == ["roles", "generator, target, attack_judge, red, judge", "blue, evaluator"]
        assert (one.calls, other.calls) == (1, 4), "the second was asked in two other forms, and without"
        assert one.bodies[0]["messages"][0]["content"].startswith("Job: probe\n")
        assert "image_url" in json.dumps(one.bodies[0]["messages"])
        assert done.stdout.splitlines()[1].split()[-3:-1] == ["yes", "yes"]
        assert done.stdout.splitlines()[2].split()[-3:-1] == ["yes", "no"]


async def test_each_role_can_be_asked_alone() -> None:
    async with EndpointServer(always=agents) as server:
        roles = {name: {"model": name, "base_url": server.url} for name in get_args(RoleName)}
        config = Config.model_validate({"roles": roles, "bench": {"adaptive": {}}})
        names = roles_asked(config, STAGES)
        assert sorted(names) == sorted(roles)
        assert problems(await check_roles(config, names)) == ""
        assert sorted(body["model"] for body in server.bodies) == sorted(roles)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, NO_IMAGES),
        (500, "image input is not supported - hint: you may need to provide the mmproj"),
        (422, "messages[1].content: Input should be a valid string"),
    ],
)
async def test_a_model_without_eyes_is_told_the_setting(status: int, message: str) -> None:
    verdict = says(VERDICT)
    found = await checked(sees_nothing(verdict, message, status))
    assert found.row[2:5] == (f"in {found.seconds:.1f} s", "no", "yes")
    assert "m takes no pictures" in found.problem
    assert found.problem.count("set roles.judge.pictures to caption or false") == 1
    assert (await checked(sees_nothing(verdict), pictures=False)).problem == ""


async def test_the_form_in_which_a_server_takes_the_schema_is_named() -> None:
    """llama-cpp-python answers OpenAI's form with 500 and takes another."""

    async def llama_cpp(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        takes = body["response_format"]["type"] == "json_object"
        return await (says(VERDICT) if takes else fails(500, "response_format: no such type"))(request, body)

    found = await checked(llama_cpp)
    assert (found.schema, found.problem) == ("as json_object with schema", "")


TOO_SHORT = "This model's maximum context length is 2048 tokens; lower max_tokens"
PROBLEMS: list[tuple[RoleName, Step, str]] = [
    (
        "judge",
        fails(404, "model m does not exist"),
        "HTTP 404: model m does not exist; fix base_url, model or",
    ),
    ("judge", says("yes"), "no valid answer in 2 tries.*choose a model that answers in JSON.*--no-check"),
    ("judge", says("The image was cut off: HTTP 404"), "choose a model that answers in JSON"),
    ("judge", says('{"a', finish="length"), r"cut off at max_tokens=2048.*raise roles\.judge\.max_tokens"),
    ("judge", says("I'm sorry, I can't."), "declined.*choose another model"),
    ("judge", fails(400, TOO_SHORT), rf"{TOO_SHORT}.*lower roles\.judge\.max_tokens"),
    ("target", fails(400, TOO_SHORT), rf"{TOO_SHORT}.*lower roles\.target\.max_tokens"),
    ("judge", sends('{"choices": [{"message": {"content": "HTTP 404, no image'), "HTTP 200: "),
    ("target", sends('{"choices": [{"message": {"content": "HTTP 404, no image'), "HTTP 200: "),
    ("target", says(""), r"with nothing \(finish_reason stop\); it need not answer in JSON, but in words"),
    (
        "target",
        says(None, finish="length"),
        r"nothing up to max_tokens=2048; raise roles\.target\.max_tokens",
    ),
    ("target", says("<think>Hm", finish="length"), "with reasoning alone up to max_tokens=2048; raise roles"),
    ("target", says("<think>Hm</think>"), r"with reasoning alone \(finish_reason stop\)"),
    ("target", says(None, finish="content_filter"), r"its host declined \(content_filter\); choose another"),
]


@pytest.mark.parametrize(("role", "server", "said"), PROBLEMS, ids=[said for _, _, said in PROBLEMS])
async def test_what_to_do_stands_in_one_line(role: RoleName, server: Step, said: str) -> None:
    found = await checked(server, role)
    assert found.problem.startswith(f"roles.{role}: ") and "\n" not in found.problem
    assert re.search(said, found.problem), found.problem
    assert "takes no pictures" not in found.problem and found.pictures in ("-", "yes")
    assert role == "judge" or "answers in JSON" not in found.problem


async def test_an_address_without_its_v1_is_noticed() -> None:
    async with EndpointServer(always=says("x")) as endpoint:
        found = await checked_at(endpoint.url.removesuffix("/v1"))
    assert "HTTP 404" in found.problem and "base_url (most end in /v1)" in found.problem


async def test_a_bench_with_a_dead_judge_costs_one_request_and_writes_nothing(tmp_path: Path) -> None:
    async with (
        EndpointServer(always=says("fine")) as model,
        EndpointServer(always=fails(404, "gone")) as judge,
    ):
        done = await safer_steer(*bench(tmp_path, model.url, judge.url))
        assert done.exit_code == 2
        [last] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert last.startswith("error: roles.judge: j at ") and "HTTP 404: gone" in last
        assert model.calls == 1
        assert not (tmp_path / "run").exists()


async def test_the_check_of_a_bench_is_paid_for_and_its_answers_are_not_kept(tmp_path: Path) -> None:
    verdict = says(VERDICT)
    async with EndpointServer(always=says("fine")) as model, EndpointServer(always=verdict) as judge:
        command = bench(tmp_path, model.url, judge.url)
        done = await safer_steer(*command)
        assert done.exit_code == 0, done.output
        assert "check: target: m answered in" in done.stderr
        assert (model.calls, judge.calls) == (2, 2)
        with sqlite3.connect(tmp_path / "run" / "cache.sqlite") as cache:
            assert cache.execute("SELECT role, calls, prompt_tokens FROM spent ORDER BY role").fetchall() == [
                ("judge", 2, 20),
                ("target", 2, 20),
            ]
            assert cache.execute("SELECT count(*) FROM replies").fetchone() == (2,)
        again = await safer_steer(*command)
        assert again.exit_code == 0 and "check: " not in again.stderr
        assert (model.calls, judge.calls) == (2, 2), "a run that asks nobody any more does not check"
        unchecked = await safer_steer(*command, "--fresh", "--no-check")
        assert unchecked.exit_code == 0, unchecked.output
        assert (model.calls, judge.calls) == (2, 2), "all else is in the cache"


async def test_a_folder_that_cannot_be_written_to_is_refused_before_a_model_is_asked(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    async with EndpointServer(always=says("fine")) as model, EndpointServer(always=says(VERDICT)) as judge:
        command = bench(tmp_path, model.url, judge.url)
        done = await safer_steer(*[f"{one}/b" if one == tmp_path / "run" else one for one in command])
        assert done.exit_code == 2 and "run/b: cannot be written to (" in done.stderr, done.output
        assert (model.calls, judge.calls) == (0, 0)


async def test_nothing_to_check(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    done = await safer_steer("check", tmp_path / "config.yaml")
    assert done.exit_code == 0 and "no role is asked at an endpoint" in done.stdout


async def test_a_bench_of_a_model_without_eyes_names_its_option_and_then_runs(tmp_path: Path) -> None:
    caption = says(json.dumps({"caption": "A teal box."}))
    verdict = says(VERDICT)

    async def judges_and_describes(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        describes = body["messages"][0]["content"].startswith("Job: caption")
        return await (caption if describes else verdict)(request, body)

    async with (
        EndpointServer(always=sees_nothing(says("fine"))) as model,
        EndpointServer(always=judges_and_describes) as judge,
    ):
        command = bench(tmp_path, model.url, judge.url)
        refused = await safer_steer(*command)
        assert refused.exit_code == 2
        assert "set roles.target.pictures to caption or false" in refused.stderr
        done = await safer_steer(*command, "--set", "roles.target.pictures=caption")
        assert done.exit_code == 0, done.output
        assert "A teal box." in json.dumps(model.bodies[-1])
        described = [
            body for body in judge.bodies if body["messages"][0]["content"].startswith("Job: caption")
        ]
        assert len(described) == 1


async def test_no_request_is_sent_once_the_money_is_spent(tmp_path: Path) -> None:
    async with EndpointServer(always=agents) as server:
        role = {"model": "m", "base_url": server.url, "price_in": 1}
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({"spending_limit": 0, "roles": {"generator": role}}))
        done = await safer_steer("seeds", config, "--out", tmp_path / "run")
        assert done.exit_code == 2 and "spending limit: 0.00 of 0.00 spent" in done.stderr
        assert server.calls == 0


async def test_who_does_not_listen_and_who_does_not_even_refuse_are_told_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "CONNECT_S", 0.5)
    begun = time.monotonic()
    found = await checked_at(NOBODY, timeout_s=300, retries=5)
    assert f"roles.judge: cannot reach {NOBODY}" in found.problem and "run the same command" in found.problem
    with socket.socket() as full:  # whose line of callers is full: the next one hears nothing
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with socket.create_connection(address), socket.socket() as waiting_too:
            waiting_too.setblocking(False)
            waiting_too.connect_ex(address)
            url = f"http://127.0.0.1:{address[1]}/v1"
            found = await checked_at(url, timeout_s=300, retries=5)
    assert f"cannot reach {url} (no connection within 0.5 s)" in found.problem
    assert time.monotonic() - begun < 60


async def test_a_busy_server_is_waited_for_and_the_waiting_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It serves one request at a time; the longest wait for the connection is no limit."""
    monkeypatch.setattr(clients, "CONNECT_S", 0.1)
    monkeypatch.setattr(gate, "FIRST_S", 0.2)
    async with EndpointServer(always=says(VERDICT, after_s=1)) as server:
        found = await checked_at(server.url, timeout_s=30)
    assert found.problem == "" and found.seconds is not None and found.seconds >= 1
    assert [text for text in caplog.messages if "waiting" in text][:3] == [
        f"waiting for an answer of m at {server.url}: {seconds:g} s of at most 30 s"
        for seconds in (0.2, 0.4, 0.8)
    ]


async def test_a_server_that_never_answers_is_waited_for_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate, "FIRST_S", 0.2)
    async with EndpointServer(always=says("late", after_s=30)) as server:
        found = await checked_at(server.url, timeout_s=1, retries=5)
        assert server.calls == 1
    assert "1 try: no reply within 1 s" in found.problem and found.seconds is None
    async with raw_server(b"") as url:
        found = await checked_at(url, timeout_s=1, retries=5)
    assert f"{url} gave no answer within 1 s (timeout_s)" in found.problem
    assert "raise timeout_s, then run the same command" in found.problem
    assert len([text for text in caplog.messages if "waiting" in text]) >= 2


async def test_a_run_waits_for_a_busy_server_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers nothing while it is busy, for longer than a connection may take."""
    monkeypatch.setattr(clients, "CONNECT_S", 0.1)

    async def late(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(1)
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_get("/v1/models", late)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    config = Config.model_validate({"roles": {"judge": {"model": "m", "base_url": url}}})
    await check_role(config, "judge", list)
    await runner.cleanup()


async def test_reasoning_in_the_reply_is_named() -> None:
    for name, text in (("target", "It is grey."), ("judge", VERDICT)):
        for opening in ("<think>", ""):
            found = await checked(says(f"{opening}Hm.</think>{text}"), name)
            assert (found.problem, found.reasoning) == ("", "0, in the reply, taken out")
        assert (await checked(says(text), name)).reasoning == "0"
