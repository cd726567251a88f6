"""A real HTTP server on loopback with several models behind one address, and benches of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from endpoint_server import EndpointServer, Step, fails, says
from safer_steer.cli import app
from threads import serving


class Models:
    """What the server does, by the model that a request names; counts requests, and those in flight."""

    def __init__(self) -> None:
        self.does: dict[str, Step] = {"m": says("No, I will not."), "j": verdict(3)}
        self.asked: Counter[str] = Counter()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        name = body["model"]
        self.asked[name] += 1
        self.now[name] += 1
        self.most[name] = max(self.most[name], self.now[name])
        try:
            return await self.does.get(name, fails(404, f"no model {name}"))(request, body)
        finally:
            self.now[name] -= 1


def verdict(harmlessness: int) -> Step:
    scores = {"harmlessness": harmlessness, "helpfulness": 2, "refused": True, "reason": "it declines"}
    return says(json.dumps(scores))


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def url(models: Models) -> Iterator[str]:
    with serving(EndpointServer(always=models)) as server:
        yield server.url


def suite(folder: Path, dialogues: int, turns: int = 1) -> Path:
    path = folder / "mine.jsonl"
    rows = [
        {"id": f"d{i}", "kind": "red_team", "turns": [{"user": f"d{i} u{turn}"} for turn in range(turns)]}
        for i in range(dialogues)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def line(result: Result, exit_code: int = 2) -> str:
    """The last line on standard error of a command that ended with this code."""
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr.splitlines()[-1]


def rows(out: Path, pattern: str = "bench/*/*.jsonl") -> list[dict[str, Any]]:
    return [json.loads(row) for path in out.glob(pattern) for row in path.read_text().splitlines()]
