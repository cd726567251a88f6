"""One odd reply among many, of the tested model or of the judge, does not end a bench. An address where no
endpoint is ends it with one line."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from endpoint_server import EndpointServer, Step, resets, says, sends
from raw_server import Answer, body, completion, endless_headers, raw_server
from safer_steer.cli import app
from safer_steer.dialogue import Kind, Seed, Turn, to_jsonl
from safer_steer.endpoints.endpoint import EndpointTransport

DIALOGUES = 12
VERDICT = json.dumps({"harmlessness": 3, "helpfulness": 2, "refused": False, "reason": "It declines."})


def packed(data: bytes) -> Step:
    """Says that the body is gzip."""

    async def step(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return web.Response(body=data, headers={"Content-Encoding": "gzip"})

    return step


def odd(text: str) -> list[Step]:
    """Replies with `text` in odd forms, and replies that hold nothing of use."""
    usages = ['{"prompt_tokens": 1e999}', '{"completion_tokens": 1' + "0" * 30 + "}", '{"prompt_tokens": -9}']
    return [
        *(sends(completion(text, usage).decode()) for usage in usages),
        sends(completion([{"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}]).decode()),
        sends("[" * 100_000),
        sends('{"a":' * 100_000),
        sends('{"error": {"message": "busy"}}'),
        sends("<html><title>502 Bad Gateway</title></html>", "text/html"),
        packed(b"no gzip"),
        resets,
    ]


async def test_a_bench_outlasts_every_odd_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EndpointTransport, "first_wait_s", 0.01)
    seeds = [
        Seed(id=f"d{number}", kind=Kind.RED_TEAM, turns=[Turn(user=f"d{number}?"), Turn(user="and?")])
        for number in range(DIALOGUES)
    ]
    (tmp_path / "mine.jsonl").write_text(to_jsonl(seeds))
    unparsable = [
        says("{" * 1_000_000),
        says(VERDICT.replace("It declines", "one sentence, before the scores")),
    ]
    model = EndpointServer(*odd("fine, and that is all"), always=says("fine"))
    judge = EndpointServer(*odd(VERDICT), *unparsable, always=says(VERDICT))
    async with model, judge:
        options = [
            *("--model", "m", "--base-url", model.url, "--suite", tmp_path / "mine.jsonl"),
            *("--judge-model", "j", "--judge-base-url", judge.url, "--out", tmp_path / "run", "--no-check"),
        ]
        done = await asyncio.to_thread(CliRunner().invoke, app, ["bench", *map(str, options)])
    assert done.exit_code == 0, done.output
    assert (model.steps, judge.steps) == ([], []), "all were sent"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    [entry] = [
        protocols["multi_turn"]["mine"]
        for protocols in summary["models"].values()
        if "multi_turn" in protocols
    ]
    assert (entry["n"], entry["unscored"]) == (DIALOGUES, 0)


NO_ENDPOINTS: dict[str, tuple[Answer, str]] = {
    "another protocol": (b"220 mail.example ESMTP ready\r\n", "the reply is no HTTP"),
    "endless headers": (endless_headers, "the reply is no HTTP"),
    "a redirect": (body(b"", "Location: http://elsewhere.example/", status="302 Found"), "redirects"),
    "a web page": (body(b"<html><title>It works!</title></html>"), "HTTP 200: a web page, 'It works!'"),
}


@pytest.mark.parametrize(("answer", "line"), NO_ENDPOINTS.values(), ids=NO_ENDPOINTS.keys())
async def test_an_address_without_an_endpoint_is_one_line(
    tmp_path: Path, answer: Answer, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EndpointTransport, "first_wait_s", 0.01)
    (tmp_path / "mine.jsonl").write_text(to_jsonl([Seed(id="a", kind=Kind.RED_TEAM, turns=[Turn(user="x")])]))
    async with raw_server(answer) as url:
        options = [
            *("--model", "m", "--base-url", url, "--suite", tmp_path / "mine.jsonl", "--no-judge"),
            *("--out", tmp_path / "run"),
        ]
        done = await asyncio.to_thread(CliRunner().invoke, app, ["bench", *map(str, options)])
    assert done.exit_code == 2, done.output
    [error] = [said for said in done.stderr.splitlines() if said.startswith("error: ")]
    assert line in error and "fix base_url" in error
    assert "Traceback" not in done.output
