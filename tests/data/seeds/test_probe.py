"""Scripts of a wanted length: what is asked of the endpoint, and what is accepted."""

import json
from typing import Any

import pytest

from endpoint_server import EndpointServer, says
from safer_steer.config import Role
from safer_steer.data.seeds.pair_work import check_turns
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.errors import UnparsableError
from safer_steer.prompts.scripts import BENIGN, OBFUSCATED, BenignInput, ObfuscatedInput

WORDS = ["What is it?", "Who made it?", "How old is it?", "Where is it kept?", "What is its use?"]


def length(body: dict[str, Any]) -> tuple[int, int]:
    turns = body["response_format"]["json_schema"]["schema"]["properties"]["turns"]
    return turns["minItems"], turns["maxItems"]


async def test_the_schema_sent_has_the_wanted_length_and_the_text_stays_the_same() -> None:
    risky = {"turns": [{"user": user, "risk": 2} for user in WORDS[:4]]}
    steps = [says(json.dumps({"turns": WORDS[:4]})), says(json.dumps(risky))]
    async with EndpointServer(*steps) as server:
        role = Role(model="m", base_url=server.url, retries=0, reasks=0)
        generator = ChatModel("generator", role, transport := EndpointTransport(role))
        await generator.ask(BENIGN, BenignInput(task="task", turns=4), [])
        await generator.ask(OBFUSCATED, ObfuscatedInput(task="task", intent="intent", turns=7), [])
        await transport.aclose()
    assert [length(body) for body in server.bodies] == [(4, 4), (7, 7)]
    content = server.bodies[0]["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[-1]["text"]
    assert text.endswith(json.dumps(BENIGN.schema(), separators=(",", ":")))
    assert BENIGN.schema()["properties"]["turns"]["minItems"] == 2


def test_a_script_of_another_length_is_accepted_within_the_bounds_only() -> None:
    check_turns("benign", WORDS, (2, 10))
    with pytest.raises(UnparsableError, match="a script of 5 turns; 2 to 4 are allowed"):
        check_turns("benign", WORDS, (2, 4))
