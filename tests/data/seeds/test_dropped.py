"""What the stage says about its pools: what was dropped, and that nothing at all is an error."""

import asyncio
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from typer.testing import CliRunner, Result

from endpoint_server import EndpointServer, says
from safer_steer.cli import app
from safer_steer.data.seeds.pools import dropped_in_words
from safer_steer.sandbox.agents import SandboxTransport
from seeds_run import dropped


def write_config(folder: Path, url: str) -> Path:
    """Four sandbox pairs, with a generator at `url`."""
    generator = {"model": "m", "base_url": url, "retries": 0, "reasks": 0}
    config = {"seeds": {"sources": [{"limit": 4}]}, "roles": {"generator": generator}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


async def seeds(config: Path, out: Path) -> Result:
    """Without the check of the models: what a stage says of its work is seen here."""
    command = ["seeds", str(config), "--out", str(out), "--no-check"]
    return await asyncio.to_thread(CliRunner().invoke, app, command)


async def test_not_one_script_is_an_error_each_time_and_a_fresh_start_asks_again(tmp_path: Path) -> None:
    async with EndpointServer(always=says("")) as server:
        config = write_config(tmp_path, server.url)
        for _ in range(2):
            done = await seeds(config, tmp_path / "run")
            assert done.exit_code == 2
            line = done.stderr.splitlines()[-1]
            assert line.startswith("error: ")
            assert "seeds: not one script was made (dropped: 8 unparsable); the commonest cause: " in line
            assert "no JSON object in it" in line and "dropped.jsonl has each reason" in line
        asked = server.calls
        assert asked == 8, "two attempts at the probe of each pair, and none in the second run"
        fresh = ["seeds", str(config), "--out", str(tmp_path / "run"), "--fresh", "--no-check"]
        await asyncio.to_thread(CliRunner().invoke, app, fresh)
        assert server.calls == 2 * asked


async def test_what_was_dropped_is_said_with_reasons_and_counts(tmp_path: Path) -> None:
    agents = SandboxTransport()

    async def no_obfuscated_script(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["messages"][0]["content"].startswith("Job: obfuscated"):
            return await says("{}")(request, body)
        reply = await agents.complete(body["messages"])
        return await says(reply.text)(request, body)

    async with EndpointServer(always=no_obfuscated_script) as server:
        done = await seeds(write_config(tmp_path, server.url), tmp_path / "run")
    assert done.exit_code == 0, done.output
    reasons = [(row["kind"], row["reason"]) for row in dropped(tmp_path / "run")]
    assert reasons == [("obfuscated", "unparsable")] * 2
    assert "seeds: dropped: 2 unparsable\n" in done.output


def test_reasons_stand_in_the_order_of_their_counts(tmp_path: Path) -> None:
    reasons = ["failed_attack", "unparsable", "duplicate_pair", "unparsable"]
    (tmp_path / "dropped.jsonl").write_text("".join(f'{{"reason": "{reason}"}}\n' for reason in reasons))
    assert dropped_in_words(tmp_path) == "dropped: 2 unparsable, 1 attack failed, 1 duplicate pair"
    (tmp_path / "dropped.jsonl").write_text("")
    assert dropped_in_words(tmp_path) == ""
