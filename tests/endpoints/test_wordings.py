"""What servers say when they decline: every row of the table, met over HTTP by an error as that server sends
it; and the same words in replies, where they mean nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from endpoint_server import EndpointServer, Step, says, sends
from places import SUPPORT
from safer_steer.config import Role
from safer_steer.dialogue import Dialogue, Kind, Seed, StopReason, Turn
from safer_steer.endpoints.answers import complaint
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.endpoints.clients import Answer
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.endpoints.transport import AnsweredError, ChatReply, ContextLengthError, NoEyesError
from safer_steer.endpoints.wordings import WORDINGS, Meaning, Wording
from safer_steer.episode import Script, play
from safer_steer.errors import EndpointError, RejectedError

HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"title": "Answer", "type": "object", "properties": {}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EndpointTransport, "first_wait_s", 0.001)


def error(message: str, **fields: Any) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": None} | fields
    }


ERRORS = [
    (Meaning[line["meaning"]], line["status"], line["body"])
    for line in map(json.loads, (SUPPORT / "server_errors.jsonl").read_text().splitlines())
]
"""Errors as the servers send them, at least one for each row."""


def row_of(status: int, body: Any) -> Wording | None:
    found = complaint(Answer(status, {}, body, json.dumps(body)))
    assert found
    return found.wording


def raises(status: int, body: Any) -> Step:
    async def step(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return step


async def outcome(server: EndpointServer, **settings: Any) -> ChatReply | Exception:
    """Of one request with a schema."""
    transport = EndpointTransport(Role(**{"model": "m", "base_url": server.url, "retries": 0} | settings))
    try:
        return await transport.complete(HELLO, SCHEMA)
    except (EndpointError, RejectedError) as error:
        return error
    finally:
        await transport.aclose()


@pytest.mark.parametrize(
    ("meaning", "status", "body"), ERRORS, ids=lambda said: said.name if isinstance(said, Meaning) else None
)
async def test_an_error_means_what_its_server_means(meaning: Meaning, status: int, body: Any) -> None:
    async with EndpointServer(raises(status, body), always=says("good")) as server:
        came = await outcome(server)
        first, last = server.bodies[0], server.bodies[-1]
        calls = server.calls
    match meaning:
        case Meaning.CONTEXT:
            assert isinstance(came, ContextLengthError) and calls == 1
        case Meaning.FILTERED:
            assert came == ChatReply("", finish="content_filter", refusal=True) and calls == 1
        case Meaning.ACCOUNT:
            assert isinstance(came, EndpointError) and calls == 1
        case Meaning.TOO_LARGE:
            assert type(came) is RejectedError and calls == 1
        case Meaning.PICTURES:
            assert isinstance(came, NoEyesError) and calls == 1
        case Meaning.LIMIT_NAME:
            assert last.keys() - first.keys() == {"max_completion_tokens"} and calls == 2
        case Meaning.SCHEMA:
            assert came == ChatReply("good", 10, 5) and calls == 2
            assert last["response_format"] == {"type": "json_object", "schema": SCHEMA}
        case Meaning.PARAMETER:
            [gone] = first.keys() - last.keys()
            said = json.dumps(body)
            assert gone == ("top_p" if "top_p" in said else "temperature") and calls == 2


def test_every_row_is_met() -> None:
    met = {row_of(status, body) for _, status, body in ERRORS}
    assert set(WORDINGS) - met == set()
    assert all(row.statuses and bool(row.code) != bool(row.words) for row in WORDINGS)


WORDS = sorted(
    {row.words or row.code for row in WORDINGS}
    | {"context window", "grammar", "quota", "flagged", "billing", "moderation", "image"}
)
"""Those of the table, and single ones that stand in many answers."""


@pytest.mark.parametrize("words", WORDS)
async def test_a_damaged_reply_is_asked_again_whatever_its_words(words: str) -> None:
    whole = json.dumps(
        {"choices": [{"message": {"role": "assistant", "content": f"It is the {words}, said he."}}]}
    )
    damaged = [
        whole[: whole.index("said")],
        f"data: {whole}",
        f'{{"object": "chat.completion", "text": "{words}"}}',
        f'["{words}"]',
    ]
    async with EndpointServer(*map(sends, damaged), always=says("good")) as server:
        assert await outcome(server, retries=len(damaged)) == ChatReply("good", 10, 5)
        assert server.calls == len(damaged) + 1
        assert all(body == server.bodies[0] for body in server.bodies), (
            "nothing is left out of later requests"
        )
    async with EndpointServer(sends(damaged[0]), always=says(f"It is the {words}.")) as server:
        assert type(await outcome(server)) is EndpointError
        assert await outcome(server) == ChatReply(f"It is the {words}.", 10, 5), "an answer is an answer"


@pytest.mark.parametrize(
    "body", [{"error": "busy"}, error("the engine died"), error("wait", code="overloaded")]
)
async def test_an_error_object_with_status_200_is_an_error_and_may_pass(body: Any) -> None:
    async with EndpointServer(raises(200, body), always=says("good")) as server:
        assert await outcome(server, retries=1) == ChatReply("good", 10, 5)
    too_long = error("This model's maximum context length is 2048 tokens")
    async with EndpointServer(always=raises(200, too_long)) as server:
        assert isinstance(await outcome(server), ContextLengthError)


@pytest.mark.parametrize("status", [401, 404, 500, 503])
async def test_the_words_of_another_status_mean_nothing(status: int) -> None:
    body = error("upstream: prompt is too long: the quota of the account was flagged by moderation")
    async with EndpointServer(always=raises(status, body)) as server:
        assert type(await outcome(server)) is AnsweredError


async def test_a_cut_reply_about_context_windows_does_not_end_a_dialogue() -> None:
    """Nor does one that stays cut end it as `context_full`, which counts as the model's own limit."""
    cut = sends('{"choices": [{"message": {"content": "The context window exceeds limit of')
    seed = Seed(id="d", kind=Kind.BENIGN, turns=[Turn(user="what is a context window?"), Turn(user="and?")])

    async def played(server: EndpointServer) -> Dialogue:
        role = Role(model="m", base_url=server.url, retries=1)
        transport = EndpointTransport(role)
        assistant = ChatAssistant(ChatModel("target", role, transport), lambda _: [])
        try:
            return await play(seed, Script(), assistant, None)
        finally:
            await transport.aclose()

    async with EndpointServer(cut, always=says("a bound")) as server:
        dialogue = await played(server)
    assert (dialogue.stop, len(dialogue.turns)) == (StopReason.COMPLETED, 2)
    async with EndpointServer(says("a bound"), always=cut) as server:
        dialogue = await played(server)
    assert (dialogue.stop, len(dialogue.turns)) == (StopReason.ASSISTANT_FAILED, 1)
