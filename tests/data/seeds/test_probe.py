"""Scripts of a wanted length: what is asked of the endpoint, and what is accepted."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from endpoint_server import EndpointServer, says
from safer_steer.config import Role
from safer_steer.data.seeds.red_team import benign_script, obfuscated_script
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.errors import UnparsableError
from safer_steer.files.images import Picture, picture_from
from safer_steer.prompts.scripts import BENIGN
from safer_steer.sandbox.world import draw_png, training_devices

WORDS = ["What is it?", "Who made it?", "How old is it?", "Where is it kept?", "What is its use?"]


def picture() -> Picture:
    return picture_from(draw_png(training_devices()[0], False, 0), "0.png", 10**6)


@asynccontextmanager
async def model(url: str) -> AsyncIterator[ChatModel]:
    role = Role(model="m", base_url=url, retries=0, reasks=0)
    transport = EndpointTransport(role)
    yield ChatModel("generator", role, transport)
    await transport.aclose()


def length(body: dict[str, Any]) -> tuple[int, int]:
    turns = body["response_format"]["json_schema"]["schema"]["properties"]["turns"]
    return turns["minItems"], turns["maxItems"]


async def test_the_schema_sent_has_the_wanted_length_and_the_text_stays_the_same() -> None:
    reply = {"turns": WORDS[:4]}
    risky = {"turns": [{"user": user, "risk": 2} for user in WORDS[:4]]}
    steps = [says(json.dumps(reply)), says(json.dumps(risky))]
    async with EndpointServer(*steps) as server, model(server.url) as generator:
        await benign_script(generator, "task", 4, (2, 10), picture())
        await obfuscated_script(generator, "task", "intent", 7, (2, 10), picture())
    assert [length(body) for body in server.bodies] == [(4, 4), (7, 7)]
    text = server.bodies[0]["messages"][-1]["content"][-1]["text"]
    assert text.endswith(json.dumps(BENIGN.schema(), separators=(",", ":")))
    assert BENIGN.schema()["properties"]["turns"]["minItems"] == 2


async def test_a_script_of_another_length_is_accepted_within_the_bounds_only() -> None:
    reply = says(json.dumps({"turns": WORDS}))
    async with EndpointServer(always=reply) as server, model(server.url) as generator:
        script = await benign_script(generator, "task", 4, (2, 10), picture())
        assert [turn.user for turn in script] == WORDS
        with pytest.raises(UnparsableError, match="a script of 5 turns; 2 to 4 are allowed"):
            await benign_script(generator, "task", 4, (2, 4), picture())
