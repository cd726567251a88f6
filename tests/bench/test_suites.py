"""A suite of one's own, measured over HTTP: its pictures reach the model."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from endpoint_server import EndpointServer, says
from safer_steer.cli import app
from safer_steer.sandbox.world import draw_png, training_devices


async def bench(url: str, suite: Path, out: Path) -> Result:
    options = ["--model", "m", "--base-url", url, "--suite", str(suite), "--judge-model", "sandbox"]
    return await asyncio.to_thread(CliRunner().invoke, app, ["bench", *options, "--out", str(out)])


def write_suite(folder: Path, **row: object) -> Path:
    (folder / "0.png").write_bytes(draw_png(training_devices()[0], True, 0))
    suite = folder / "mine.jsonl"
    script = {"id": "a", "kind": "red_team", "turns": [{"user": "what is it?"}]}
    suite.write_text(json.dumps(script | row) + "\n")
    return suite


@pytest.mark.parametrize("key", ["image", "images"])
async def test_the_picture_of_a_row_reaches_the_model(tmp_path: Path, key: str) -> None:
    async with EndpointServer(always=says("i see.")) as server:
        done = await bench(server.url, write_suite(tmp_path, **{key: "0.png"}), tmp_path / "run")
    assert done.exit_code == 0, done.output
    body = server.bodies[-1]  # the first one is the check of the endpoint
    assert [part["type"] for part in body["messages"][-1]["content"]] == ["image_url", "text"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"imgs": ["0.png"]}, "mine.jsonl:1: imgs: unknown key; did you mean `images`?"),
        ({"images": ["http://127.0.0.1:9/0.png"]}, "is a web address; addresses are not fetched"),
        ({"images": ["x" * 5000]}, "no usable path in"),
    ],
)
async def test_a_row_that_cannot_be_used_is_one_line_and_no_request(
    tmp_path: Path, row: dict[str, object], said: str
) -> None:
    async with EndpointServer(always=says("i see.")) as server:
        done = await bench(server.url, write_suite(tmp_path, **row), tmp_path / "run")
    assert done.exit_code == 2
    assert said in done.stderr.splitlines()[-1]
    assert not server.bodies
