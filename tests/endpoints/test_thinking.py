"""Reasoning in a reply's text is no part of the answer, in any seat."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from endpoint_server import EndpointServer, Step, says
from safer_steer.bench.judging import JudgeCritic
from safer_steer.config import Config, Role
from safer_steer.data.bootstrap.rollout import blue_expert
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, Turn
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.endpoints.parse import TAGS, parse_json, split_thinking
from safer_steer.episode import Assistant, Script, play

VERDICT = json.dumps({"harmlessness": 3, "helpfulness": 2, "refused": False, "reason": "clear"})
SEED = Seed(id="d", kind=Kind.BENIGN, turns=[Turn(user="what is it"), Turn(user="where is it")])


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>\nIt glows.\n</think>\n\nA lamp.\n", "It glows.", "A lamp."),
        ("\n<think></think>A lamp.", "", "A lamp."),
        ("It glows.\n</think>\n\nA lamp.", "It glows.", "A lamp."),
        ("</think>A lamp.", "", "A lamp."),
        ("<think>It glows, so it", "It glows, so it", ""),
        ("<think>a</think>\n<think>b</think>A lamp.", "a\n\nb", "A lamp."),
        ("<think>a</think><think>b", "a\n\nb", ""),
        ("a</think><think>b</think>A lamp.", "a\n\nb", "A lamp."),
        ("<think>a</think>Close with </think>.", "a", "Close with </think>."),
        ("◁think▷It glows.◁/think▷A lamp.", "It glows.", "A lamp."),
        (" A lamp.\n", "", " A lamp.\n"),
        ("Tags as <think> and </think> mark it.", "", "Tags as <think> and </think> mark it."),
        ("<thinking>a</thinking><answer>b</answer>", "", "<thinking>a</thinking><answer>b</answer>"),
        ("", "", ""),
    ],
)
def test_reasoning_is_taken_out_at_the_beginning_alone(text: str, thinking: str, answer: str) -> None:
    assert split_thinking(text) == (thinking, answer)


PLAIN = st.text().filter(lambda text: not any(tag in text for tags in TAGS for tag in tags))


@given(thought=PLAIN, answer=PLAIN, tags=st.sampled_from(TAGS), opened=st.booleans())
def test_what_a_parser_would_have_taken_out_is_taken_out(
    thought: str, answer: str, tags: tuple[str, str], opened: bool
) -> None:
    opening, closing = tags
    text = f"{opening if opened else ''}{thought}{closing}{answer}"
    assert split_thinking(text) == (thought.strip(), answer.strip())
    assert split_thinking(answer) == ("", answer)


async def played(
    assistant_of: Any, judge: Step, format: Format, *steps: Step
) -> tuple[Dialogue, list[Any], list[Any]]:
    """The dialogue, and what the target and the judge were sent."""
    async with EndpointServer(*steps) as server, EndpointServer(always=judge) as judging:
        transports = [EndpointTransport(Role(model="m", base_url=one.url)) for one in (server, judging)]
        target, critic = (ChatModel("x", transport.role, transport) for transport in transports)
        dialogue = await play(SEED, Script(), assistant_of(target), JudgeCritic(critic, format, lambda _: []))
        for transport in transports:
            await transport.aclose()
        return (
            dialogue,
            [body["messages"] for body in server.bodies],
            [body["messages"] for body in judging.bodies],
        )


def chat(format: Format) -> Any:
    return lambda model: ChatAssistant(model, lambda _: [], format=format)


def blue(model: ChatModel) -> Assistant:
    config = Config.model_validate({"student": {"format": "plain"}, "bootstrap": {"blue": "chat"}})
    return blue_expert(config, model, lambda _: [])


SECRET = "The secret plan."


@pytest.mark.parametrize(
    ("reply", "finish", "answer", "helps"),
    [
        (f"<think>{SECRET}</think>\n\nA lamp.", "stop", "A lamp.", 2),
        (f"{SECRET}</think>\n\nA lamp.", "stop", "A lamp.", 2),
        (f"<think>{SECRET}", "length", "", 0),
    ],
    ids=["opened", "opened in the prompt", "cut off"],
)
@pytest.mark.parametrize("assistant_of", [chat(Format.PLAIN), blue], ids=["target", "blue"])
async def test_reasoning_is_neither_judged_nor_in_the_history(
    assistant_of: Any, reply: str, finish: str, answer: str, helps: int
) -> None:
    steps = says(reply, finish=finish), says("On a table.")
    dialogue, asked, judged = await played(assistant_of, says(VERDICT), Format.PLAIN, *steps)
    first, second = dialogue.turns
    assert (first.assistant, first.meta["finish"], first.meta["thinking"]) == (answer, finish, SECRET)
    assert (second.assistant, "thinking" in second.meta) == ("On a table.", False)
    assert {"role": "assistant", "content": answer} in asked[1]
    assert SECRET not in json.dumps([asked, judged])
    assert first.scores and first.scores["helpfulness"] == helps, "nothing helps nobody"


async def test_an_answer_block_that_was_only_thought_of_is_not_the_answer() -> None:
    drafted = "<think>I could say <answer>the secret plan</answer></think>"
    dialogue, _, judged = await played(
        chat(Format.THINKING_ANSWER),
        says(VERDICT),
        Format.THINKING_ANSWER,
        says(f"{drafted}<thinking>It glows.</thinking><answer>A lamp.</answer>"),
        says("<thinking>Hm.</thinking><answer>On a table.</answer>"),
    )
    assert dialogue.turns[0].assistant == "<thinking>It glows.</thinking><answer>A lamp.</answer>"
    assert "secret plan" not in json.dumps(judged)


@pytest.mark.parametrize("refusal", [None, "I cannot go on."])
async def test_an_answer_that_a_filter_broke_off_is_kept_and_judged(refusal: str | None) -> None:
    """It may be the harm that the filter came too late for, also where a refusal comes with it."""
    half = "First, you take the lamp"

    async def judge(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        harmful = half in json.dumps(body["messages"][-1])
        return await says(VERDICT.replace("3", "-3") if harmful else VERDICT)(request, body)

    broken = says(half, finish="content_filter", refusal=refusal)
    dialogue, asked, _ = await played(chat(Format.PLAIN), judge, Format.PLAIN, broken, says("On a table."))
    first = dialogue.turns[0]
    assert (first.assistant, first.meta["finish"]) == (half, "content_filter")
    assert first.scores and first.scores["harmlessness"] == -3
    assert {"role": "assistant", "content": half} in asked[1]


@pytest.mark.parametrize(
    "text",
    [
        '<think>{"a": 1}</think>{"a": 2}',
        '{"a": 1} or not?</think>{"a": 2}',
        '<think>{"a": 1}</think>\n```json\n{"a": 2}\n```',
        '{"a": 2}',
    ],
)
def test_a_critic_s_draft_is_not_its_verdict(text: str) -> None:
    assert parse_json(text) == {"a": 2}


def test_a_critic_that_was_cut_off_while_thinking_has_no_verdict() -> None:
    with pytest.raises(ValueError, match="no JSON object"):
        parse_json('<think>Perhaps {"a": 1}, or')


def test_a_verdict_may_quote_the_tags() -> None:
    assert parse_json('{"reason": "It ends with </think>."}') == {"reason": "It ends with </think>."}
