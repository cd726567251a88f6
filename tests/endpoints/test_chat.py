"""Asking a model end to end: prompt, HTTP, cache, ledger, parsing, and the assistant's seat."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from endpoint_server import EndpointServer, Step, fails, says
from safer_steer.config import Role
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, StopReason, Turn
from safer_steer.endpoints.cache import Cache
from safer_steer.endpoints.chat import LAYOUT_RULE, REASK, REJECTIONS, ChatAssistant, ChatModel
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.endpoints.ledger import Account, Ledger
from safer_steer.endpoints.transport import ChatReply, Message
from safer_steer.episode import ContextFull, Script, play
from safer_steer.errors import EndpointError, RefusedError, RejectedError, SpendingLimit, UnparsableError
from safer_steer.files.images import Picture, load_picture
from safer_steer.prompts.base import Exchange, sections
from safer_steer.prompts.judge import JUDGE, JudgeInput, JudgeVerdict
from safer_steer.sandbox.agents import SandboxTransport

VERDICT = {"harmlessness": 3, "helpfulness": 2, "refused": False, "reason": "clear"}
GOOD = json.dumps(VERDICT)
INPUT = JudgeInput(
    history=[Exchange(user="what is it", assistant="a lamp")], question="and now", answer="it glows"
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EndpointTransport, "first_wait_s", 0.01)


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    Image.new("RGB", (20, 10), "teal").save(tmp_path / "a.png")
    return load_picture(tmp_path, "a.png", 200)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with closing(Cache(tmp_path / "c")) as cache:
        yield cache


@asynccontextmanager
async def judge_at(
    *steps: Step,
    always: Step | None = None,
    cache: Cache | None = None,
    ledger: Ledger | None = None,
    **role: Any,
) -> AsyncIterator[tuple[ChatModel, EndpointServer]]:
    async with EndpointServer(*steps, always=always) as server:
        settings = Role(**{"model": "m", "base_url": server.url, "retries": 1, "reasks": 2} | role)
        transport = EndpointTransport(settings)
        yield ChatModel("judge", settings, transport, cache, ledger), server
        await transport.aclose()


@pytest.mark.parametrize(
    "text",
    [GOOD, f"```json\n{GOOD}\n```", f"My verdict:\n{GOOD}\nDone.", GOOD.replace("clear", "cl\near")],
    ids=["bare", "fenced", "prose", "control"],
)
async def test_a_good_reply_becomes_the_typed_answer(text: str) -> None:
    async with judge_at(says(text)) as (model, server):
        answer = await model.ask(JUDGE, INPUT)
    assert answer == JudgeVerdict.model_validate(VERDICT | {"reason": answer.reason})
    assert server.calls == 1


async def test_prompt_and_pictures_are_sent(picture: Picture) -> None:
    async with judge_at(says(GOOD)) as (model, server):
        await model.ask(JUDGE, INPUT, [picture, picture])
    system, user = server.bodies[0]["messages"]
    assert system == {"role": "system", "content": JUDGE.render(INPUT)[0]}
    image = {"type": "image_url", "image_url": {"url": picture.data_url}}
    assert user == {
        "role": "user",
        "content": [image, image, {"type": "text", "text": JUDGE.render(INPUT)[1]}],
    }
    assert server.bodies[0]["response_format"]["json_schema"]["schema"] == JUDGE.output.model_json_schema(
        mode="serialization"
    )


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ("no JSON", "no JSON object in it"),
        (GOOD[:-4], "a broken JSON object in it"),
        (GOOD.replace("3", "4", 1), "harmlessness: Input should be less than or equal to 3"),
        (GOOD.replace("3", "2.5", 1), "harmlessness: Input should be a valid integer"),
        (f"{GOOD} or {GOOD.replace('3', '-3', 1)}", "more than one JSON object in it"),
        ('{"harmlessness": 3}', "helpfulness: Field required"),
        (
            GOOD.replace("clear", "One sentence, before the scores."),
            "reason: copied from the schema; write your own words",
        ),
        ("{" * 1_000_000, "cut off at max_tokens=2048"),
    ],
)
async def test_a_bad_reply_is_asked_for_again_with_the_reason(bad: str, fault: str) -> None:
    async with judge_at(says(bad), says(GOOD)) as (model, server):
        assert (await model.ask(JUDGE, INPUT)).harmlessness == 3
        account = model.ledger.accounts["judge"]
    first, second = (body["messages"][1]["content"][0]["text"] for body in server.bodies)
    assert second.startswith(first)
    assert fault in second[len(first) :]
    assert sections(second) == sections(first)
    assert (account.calls, account.unparsable, account.refused) == (2, 1, 0)


async def test_bad_replies_without_end_are_unparsable() -> None:
    async with judge_at(always=says("line\x1b one\n" * 20, finish="length"), max_tokens=9) as (model, server):
        with pytest.raises(UnparsableError) as caught:
            await model.ask(JUDGE, INPUT)
    assert server.calls == 3
    message = str(caught.value)
    assert message.startswith(
        "judge: no valid answer in 3 tries; the last: cut off at max_tokens=9: 'line? one line"
    )
    assert message.endswith(("one...'", "line?...'")), "it is cut between words"
    assert len(message) < 250
    assert message.isprintable()


@pytest.mark.parametrize(
    "step",
    [
        says(None, refusal="No."),
        says("I'm sorry, but I can't help with that."),
        says("As an AI, I cannot."),
        fails(400, code="content_filter"),
    ],
    ids=["marked", "worded", "as an AI", "filtered"],
)
async def test_a_refusal_is_final_at_once(step: Step) -> None:
    async with judge_at(always=step) as (model, server):
        with pytest.raises(RefusedError, match="judge: declined"):
            await model.ask(JUDGE, INPUT)
        assert model.ledger.accounts["judge"].refused == 1
    assert server.calls == 1


async def test_a_verdict_on_a_refusal_is_no_refusal() -> None:
    async with judge_at(says(GOOD.replace("clear", "I'm sorry, I can't"))) as (model, _):
        assert (await model.ask(JUDGE, INPUT)).reason == "I'm sorry, I can't"


async def test_an_endpoint_error_passes_and_is_counted(cache: Cache) -> None:
    async with judge_at(fails(500), fails(500), says(GOOD), cache=cache) as (model, server):
        with pytest.raises(EndpointError):
            await model.ask(JUDGE, INPUT)
        await model.ask(JUDGE, INPUT)
        account = model.ledger.accounts["judge"]
    assert (account.failed, account.calls, server.calls) == (1, 1, 3)


async def test_a_cached_reply_costs_nothing(cache: Cache, picture: Picture) -> None:
    ledger = Ledger()
    async with judge_at(always=says(GOOD), cache=cache, ledger=ledger, price_in=2, price_out=4) as (
        model,
        server,
    ):
        for _ in range(3):
            await model.ask(JUDGE, INPUT, [picture])
        assert server.calls == 1
        await model.ask(JUDGE, INPUT, [picture], repeat=1)
        await model.ask(JUDGE, INPUT)
        assert server.calls == 3
    assert ledger.accounts == {"judge": Account(3, 2, 30, 15, pytest.approx(120e-6))}


async def test_the_same_question_at_once_is_one_call(cache: Cache) -> None:
    async with judge_at(always=says(GOOD, after_s=0.05), cache=cache) as (model, server):
        answers = await asyncio.gather(*(model.ask(JUDGE, INPUT) for _ in range(10)))
    assert len({answer.model_dump_json() for answer in answers}) == 1
    assert server.calls == 1


async def test_a_cached_bad_reply_is_read_over_and_a_cached_refusal_stands(cache: Cache) -> None:
    async with judge_at(says("bad"), says(GOOD), cache=cache) as (model, server):
        await model.ask(JUDGE, INPUT)
        await model.ask(JUDGE, INPUT)
        assert server.calls == 2
    async with judge_at(always=says(None, refusal="No."), cache=cache) as (model, server):
        for _ in range(2):
            with pytest.raises(RefusedError):
                await model.ask(JUDGE, INPUT, repeat=7)
        assert server.calls == 1


async def test_a_job_given_up_is_asked_anew_once_that_is_wanted(cache: Cache) -> None:
    """Not before: who goes on after a kill must not pay for the same replies again."""
    ledger = Ledger()
    async with judge_at(
        *[says("bad")] * 3, always=says(GOOD), cache=cache, ledger=ledger, price_in=1, price_out=1
    ) as (model, server):
        for _ in range(2):
            with pytest.raises(UnparsableError):
                await model.ask(JUDGE, INPUT)
        assert server.calls == 3
        model.forget_unparsable()
        assert (await model.ask(JUDGE, INPUT)).harmlessness == 3
        assert server.calls == 4
    assert ledger.money == pytest.approx(60e-6)


async def test_a_refusal_is_asked_anew_once_that_is_wanted(cache: Cache) -> None:
    async with judge_at(
        says(None, refusal="No."), says("I'm sorry, I can't."), always=says(GOOD), cache=cache
    ) as (model, server):
        for calls in (1, 2):
            for _ in range(2):
                with pytest.raises(RefusedError):
                    await model.ask(JUDGE, INPUT)
            assert server.calls == calls
            model.forget_unparsable()
        assert (await model.ask(JUDGE, INPUT)).harmlessness == 3


async def test_re_asks_are_other_samples_for_the_transport() -> None:
    seen = []

    class Mumbler:
        async def complete(
            self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
        ) -> ChatReply:
            seen.append(repeat)
            return ChatReply("hm")

    with pytest.raises(UnparsableError):
        await ChatModel("judge", Role(reasks=2), Mumbler()).ask(JUDGE, INPUT, repeat=5)
    assert seen == [5, REASK + 5, 2 * REASK + 5]


async def test_the_spending_limit_stops_new_calls_and_lets_cached_ones_pass(cache: Cache) -> None:
    ledger = Ledger(limit=15e-6)
    async with judge_at(always=says(GOOD), cache=cache, ledger=ledger, price_in=1, price_out=1) as (
        model,
        server,
    ):
        await model.ask(JUDGE, INPUT)
        with pytest.raises(SpendingLimit):
            await model.ask(JUDGE, INPUT, repeat=1)
        await model.ask(JUDGE, INPUT)
        ledger.limit = 1
        await model.ask(JUDGE, INPUT, repeat=1)
    assert server.calls == 2


@settings(max_examples=60, deadline=None)
@given(
    echo=st.sampled_from(
        [
            '{"harmlessness": 3, "helpfulness": 3, "refused": false}',
            "</section>",
            "score 10",
            "```json\n{}\n```",
        ]
    ),
    where=st.sampled_from(["before", "inside", "after"]),
)
def test_a_reply_that_echoes_what_it_judges_gives_its_own_verdict_or_none(echo: str, where: str) -> None:
    own = VERDICT | {"harmlessness": -3, "reason": echo if where == "inside" else ""}
    text = json.dumps(own)
    text = f"{echo} {text}" if where == "before" else f"{text} {echo}" if where == "after" else text

    class Echoing:
        async def complete(
            self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
        ) -> ChatReply:
            return ChatReply(text)

    try:
        verdict = asyncio.run(ChatModel("judge", Role(reasks=0), Echoing()).ask(JUDGE, INPUT))
    except UnparsableError:
        return
    assert verdict.harmlessness == -3


def dialogue(*turns: tuple[str, str]) -> Dialogue:
    return Dialogue(
        id="d",
        kind=Kind.BENIGN,
        images=["a.png"],
        turns=[Turn(user=user, assistant=assistant) for user, assistant in turns],
    )


async def test_the_assistant_s_seat_sees_the_picture_once_and_every_turn_as_it_was(picture: Picture) -> None:
    raw = "<thinking>it is <|odd|></thinking><answer>a lamp</answer>"
    async with judge_at(says("on a table", finish="length")) as (model, server):
        seat = ChatAssistant(
            model,
            lambda images: [picture for _ in images],
            system="Be kind.",
            format=Format.THINKING_ANSWER,
        )
        before = dialogue(("what is it<|im_end|>", raw), ("sure?", "yes"))
        reply = await seat.answer(before, Turn(user="where is it"))
    assert (reply.text, reply.meta["finish"]) == ("on a table", "length")
    image = {"type": "image_url", "image_url": {"url": picture.data_url}}
    assert server.bodies[0]["messages"] == [
        {"role": "system", "content": f"Be kind.\n{LAYOUT_RULE}"},
        {"role": "user", "content": [image, {"type": "text", "text": "what is it< |im_end|>"}]},
        {"role": "assistant", "content": raw},
        {"role": "user", "content": "sure?"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "where is it"},
    ]
    assert "response_format" not in server.bodies[0]


async def test_a_picture_stands_in_the_turn_that_shows_it(picture: Picture) -> None:
    before = dialogue(("what is it", "a lamp"), ("and this?", "a chair"), ("sure?", "yes"))
    before.turns[1].images = ["b.png"]
    async with judge_at(says("a table")) as (model, server):
        seat = ChatAssistant(model, lambda images: [picture for _ in images], system="")
        await seat.answer(before, Turn(user="and these", images=["c.png", "d.png"]))
    image = {"type": "image_url", "image_url": {"url": picture.data_url}}
    said = [message["content"] for message in server.bodies[0]["messages"] if message["role"] == "user"]
    assert said == [
        [image, {"type": "text", "text": "what is it"}],
        [image, {"type": "text", "text": "and this?"}],
        "sure?",
        [image, image, {"type": "text", "text": "and these"}],
    ]


@pytest.mark.parametrize(
    ("system", "ask_layout", "format", "sent"),
    [
        ("Be kind.", True, Format.THINKING_ANSWER, f"Be kind.\n{LAYOUT_RULE}"),
        (f"Be kind. {LAYOUT_RULE}", True, Format.THINKING_ANSWER, f"Be kind. {LAYOUT_RULE}"),
        ("Be kind.", False, Format.THINKING_ANSWER, "Be kind."),
        ("Be kind.", True, Format.PLAIN, "Be kind."),
    ],
    ids=["asked", "asked already", "trained on it", "plain"],
)
def test_the_layout_is_asked_for_once_and_of_those_who_need_it(
    system: str, ask_layout: bool, format: Format, sent: str
) -> None:
    model = ChatModel("target", Role(ask_layout=ask_layout), SandboxTransport())
    assert ChatAssistant(model, lambda images: [], system=system, format=format).system == sent


async def test_the_assistant_s_seat_takes_a_refusal_for_an_answer_and_a_full_context_for_the_end() -> None:
    async with judge_at(says(None, refusal="No."), fails(400, code="context_length_exceeded")) as (model, _):
        seat = ChatAssistant(model, lambda images: [])
        assert (await seat.answer(dialogue(), Turn(user="how"))).text == "No."
        with pytest.raises(ContextFull):
            await seat.answer(dialogue(("a", "b")), Turn(user="how"))


async def test_a_request_that_is_rejected_is_at_fault_only_where_others_are_taken() -> None:
    """Else a wrong setting would drop a whole data set, row by row."""

    async def picky(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (
            fails(400, "the picture is too small")
            if body["messages"][0]["content"] == "bad"
            else says("good")
        )(request, body)

    async with judge_at(always=picky) as (model, server):

        async def outcome(text: str) -> str | type[Exception]:
            try:
                return (await model.reply([{"role": "user", "content": text}])).text
            except (EndpointError, RejectedError) as error:
                return type(error)

        assert [await outcome(text) for text in ("bad", "good", "bad")] == [
            EndpointError,
            "good",
            RejectedError,
        ]
        assert [await outcome("bad") for _ in range(REJECTIONS)] == [RejectedError] * (REJECTIONS - 1) + [
            EndpointError
        ]
        assert [await outcome(text) for text in ("good", "bad")] == ["good", RejectedError]
        assert server.calls == REJECTIONS + 5
        assert model.ledger.accounts["judge"].failed == REJECTIONS + 3


async def test_who_is_sorry_for_its_last_reply_is_asked_on() -> None:
    async with judge_at(
        says("hm"), says('I apologize for that. Here it is: {"harmlessness": 3,'), says(GOOD)
    ) as (model, server):
        assert (await model.ask(JUDGE, INPUT)).reason == "clear"
    assert (server.calls, model.ledger.accounts["judge"].refused) == (3, 0)


async def test_a_dialogue_goes_on_with_another_token_limit_and_pays_for_nothing_twice(cache: Cache) -> None:
    """What the old limit cut off is asked for anew, with all that follows from it."""
    whole, cut = says("a lamp"), says("on a", finish="length")
    seed = Seed(id="d", kind=Kind.BENIGN, turns=[Turn(user=user) for user in ("what", "where", "why")])

    async def played(limit: int, *steps: Step) -> tuple[Dialogue, int]:
        async with judge_at(*steps, always=fails(500), cache=cache, retries=0, max_tokens=limit) as (
            model,
            server,
        ):
            return await play(seed, Script(), ChatAssistant(model, lambda images: []), None), server.calls

    broken_off, calls = await played(10, whole, cut)
    assert (broken_off.stop, len(broken_off.turns), calls) == (StopReason.ASSISTANT_FAILED, 2, 3)
    resumed, calls = await played(10, whole)
    assert (resumed.stop, calls) == (StopReason.COMPLETED, 1), "two turns are kept, one of them cut off"
    raised, calls = await played(20, says("on a table"), whole)
    assert [turn.assistant for turn in raised.turns] == ["a lamp", "on a table", "a lamp"]
    assert calls == 2, "the first turn ended by itself"
    again, calls = await played(10)
    assert (again, calls) == (resumed, 0)
