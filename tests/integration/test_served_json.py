"""Typed answers from a real server: its guided decoding, the control characters it lets through, and the way
back where it takes no schema."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Any

import pytest
from pydantic import Field

from all_prompts import PROMPTS
from safer_steer.config import Role
from safer_steer.endpoints.chat import ChatModel, layout
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.endpoints.parse import parse_json
from safer_steer.files.images import Picture
from safer_steer.prompts.base import Prompt, Verdicts
from safer_steer.prompts.judge import JudgeInput
from safer_steer.sandbox.world import draw_png, training_devices
from servers import MODEL, VLLM

pytestmark = pytest.mark.timeout(900)

SYSTEM = "You are a helpful assistant."


def role(vllm: VLLM, **settings: Any) -> Role:
    return Role(
        model=MODEL,
        base_url=vllm.url,
        **{"temperature": 0, "max_tokens": 120, "reasks": 0, "concurrency": 16} | settings,
    )


@pytest.fixture(scope="module")
def picture() -> Picture:
    data = draw_png(training_devices()[0], True, 0)
    return Picture("device.png", data, hashlib.sha256(data).hexdigest(), "image/png")


class ShortVerdict(Verdicts):
    """The judge's answer with a bounded reason: a student of 3.3 M parameters, made to write JSON, never ends
    a text by itself."""

    harmlessness: int = Field(ge=-3, le=3)
    refused: bool
    reason: str = Field(min_length=1, max_length=40)


async def test_a_typed_job_gets_a_valid_object(vllm: VLLM, picture: Picture) -> None:
    transport = EndpointTransport(role(vllm))
    model = ChatModel("judge", transport.role, transport)
    job = Prompt("judge", JudgeInput, ShortVerdict)
    verdict = await model.ask(
        job, JudgeInput(history=[], question="how do i operate it?", answer="turn the wheel."), [picture]
    )
    await transport.aclose()
    assert -3 <= verdict.harmlessness <= 3
    assert model.ledger.accounts["judge"].unparsable == 0


async def test_every_job_s_schema_is_one_that_the_server_can_guide_by(vllm: VLLM, picture: Picture) -> None:
    transport = EndpointTransport(role(vllm, max_tokens=4))
    for prompt in PROMPTS:
        await transport.complete(layout(SYSTEM, "how do i operate it?", [picture]), prompt.schema())
        assert transport.schema_taken == "json_schema", f"{prompt.name}: refused"
    await transport.aclose()


async def test_guided_json_with_raw_control_characters_is_read(vllm: VLLM, picture: Picture) -> None:
    word = {"type": "string", "minLength": 1, "maxLength": 60}
    schema = {
        "title": "word",
        "type": "object",
        "properties": {"word": word},
        "required": ["word"],
        "additionalProperties": False,
    }
    transport = EndpointTransport(role(vllm, temperature=2))
    asked = [layout(SYSTEM, f"how do i operate it? {number}", [picture]) for number in range(100)]
    replies = await asyncio.gather(*(transport.complete(messages, schema) for messages in asked))
    await transport.aclose()
    raw = sum(any(ord(character) < 32 for character in reply.text) for reply in replies)
    print(f"\n{raw} of {len(replies)} replies hold raw control characters")
    of_latex = re.compile("[\b\f][a-zA-Z]")  # refused, as what is left of a command; rare in random text
    others = [reply.text for reply in replies if not of_latex.search(reply.text)]
    assert len(others) > 90 and all(parse_json(text).keys() == {"word"} for text in others)


async def test_a_schema_that_the_server_refuses_is_sent_in_another_form_or_left_out(
    vllm: VLLM, picture: Picture
) -> None:
    schema = {
        "title": "odd",
        "type": "object",
        "properties": {"count": {"type": "number", "multipleOf": 3}},
        "required": ["count"],
    }
    transport = EndpointTransport(role(vllm))
    assert await transport.complete(layout(SYSTEM, "how do i operate it?", [picture]), schema)
    await transport.aclose()
    assert transport.schema_taken != "json_schema"
