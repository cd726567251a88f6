"""The stub: its answers fit every prompt's schema, are always the same, and ask for nothing."""

from __future__ import annotations

import pytest

from all_prompts import PROMPTS
from safer_steer.config import Role
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, Turn
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.endpoints.parse import parse_json
from safer_steer.prompts.base import Prompt, section
from safer_steer.rewards import has_thinking_answer
from safer_steer.run.stub import StubTransport


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
async def test_every_job_gets_an_answer_of_its_schema(prompt: Prompt) -> None:
    user = section("turns", "3") + section("next_template", "")
    messages = [
        {"role": "system", "content": f"Job: {prompt.name}"},
        {"role": "user", "content": [{"type": "text", "text": user}]},
    ]
    replies = [await StubTransport().complete(messages, prompt.schema(), repeat) for repeat in (0, 0, 1)]
    answer = prompt.output.model_validate(parse_json(replies[0].text, user)).model_dump()
    assert replies[0] == replies[1]
    assert len(answer.get("turns", "abc")) == 3
    assert answer.get("next_question", "") == "", "there is none after the last turn"
    texts = [value for value in answer.values() if isinstance(value, str)]
    assert all("stub" in text for text in texts if text not in ("", "follow_up", "yes_laddering"))


@pytest.mark.parametrize("format", list(Format))
async def test_a_model_under_test_answers_in_the_layout_that_is_asked_for(format: Format) -> None:
    assistant = ChatAssistant(
        ChatModel("target", Role(model="stub"), StubTransport()), lambda _: [], format=format
    )
    dialogue = Dialogue.begin(Seed(id="d", kind=Kind.BENIGN, turns=[Turn(user="what is it?")]))
    reply = await assistant.answer(dialogue, Turn(user="what is it?"))
    assert has_thinking_answer(reply.text) == (format is Format.THINKING_ANSWER)
    assert "stub: " in reply.text
