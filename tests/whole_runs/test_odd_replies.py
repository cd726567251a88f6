"""One odd reply among many, of the tested model or of the judge, does not end a bench."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from endpoint_server import EndpointServer, Step, resets, says, sends
from raw_server import completion
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
