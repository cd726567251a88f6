"""Rollouts on a vLLM server: what is sent, where the picture stands, one server a dialogue, and what happens
when a server is another, slow or gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from safer_steer.config import SHIPPED, Student
from safer_steer.config.rl import Rollouts
from safer_steer.dialogue import Dialogue, Kind, Seed, StopReason, Turn
from safer_steer.endpoints.clients import close_all
from safer_steer.episode import Script, play
from safer_steer.errors import EndpointError, UserError
from safer_steer.sandbox.world import devices, draw
from safer_steer.student import processes, vllm_server
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.load import LoadedStudent, load_student
from safer_steer.student.policy import Completion, SampledStudent, Sampling
from safer_steer.student.transcript import Transcript
from safer_steer.student.vllm_policy import VLLMPolicy, logprobs_at, on_servers, trainer_logits
from safer_steer.student.vllm_server import Features, Server, placed
from vllm_double import VLLMDouble

GENERATE, RENDER = "/inference/v1/generate", "/v1/chat/completions/render"
SETTINGS = Student(dtype="float32", device="cpu", max_turn_tokens=24, max_length=512)


@pytest.fixture(scope="module")
def loaded() -> LoadedStudent:
    return load_student(SETTINGS)


@pytest.fixture
def double(loaded: LoadedStudent) -> Iterator[VLLMDouble]:
    with VLLMDouble(loaded, str(SHIPPED)) as server:
        yield server


def sampled(
    loaded: LoadedStudent, *urls: str, temperature: float = 1.0, **settings: object
) -> SampledStudent:
    rollouts = Rollouts.model_validate({"engine": "vllm", "base_url": list(urls), "retries": 0, **settings})
    return SampledStudent(loaded.model, loaded.renderer, SETTINGS, temperature, rollouts, str(SHIPPED))


def asked(loaded: LoadedStudent, number: int, text: str = "what is it?") -> Transcript:
    transcript = Transcript(loaded.renderer)
    transcript.add_user(text, [draw(devices()[number], True, number)])
    return transcript


def replies(policy: VLLMPolicy, *transcripts: Transcript) -> list[Completion]:
    """Of all at once, on an event loop that leaves no connection open."""

    async def all_of_them() -> list[Completion]:
        try:
            return await asyncio.gather(*(policy.reply(t, str(n)) for n, t in enumerate(transcripts)))
        finally:
            await close_all()

    return asyncio.run(all_of_them())


def test_log_probabilities_are_the_trainers_over_turns_with_pictures_in_two(loaded, double):
    policy = on_servers(sampled(loaded, double.url, temperature=0.7))
    transcript = asked(loaded, 0)
    for turn in range(3):
        [said] = replies(policy, transcript)
        begin = len(transcript.ids)
        transcript.add_assistant(said.token_ids, said.logprobs)
        end = begin + len(said.token_ids)
        ours = logprobs_at(trainer_logits(loaded.model, transcript), transcript.ids, begin, end, 0.7)
        assert said.logprobs == pytest.approx(ours, abs=1e-5)
        assert said.text == loaded.renderer.decode(said.token_ids)
        transcript.add_user("and this?", [draw(devices()[5], False, 5)] if turn == 0 else [])


def test_a_request_says_all_that_sampling_depends_on(loaded, double):
    policy = on_servers(sampled(loaded, double.url, temperature=0.7))
    transcript = asked(loaded, 0)
    replies(policy, transcript)
    body = double.bodies[-1]
    seed = body["sampling_params"].pop("seed")
    assert body["sampling_params"] == {
        "temperature": 0.7,
        "top_p": 1.0,
        "max_tokens": 24,
        "stop_token_ids": loaded.renderer.stops,
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": False,
    }
    assert (body["model"], body["token_ids"]) == ("student", transcript.ids)
    begin = transcript.ids.index(loaded.renderer.processor.image_token_id)
    assert body["features"]["mm_placeholders"]["image"][0]["offset"] == begin != 3
    replies(policy, transcript)
    assert double.bodies[-1]["sampling_params"]["seed"] == seed, "the same key, the same draw"


def test_a_picture_is_processed_once_and_sent_once(loaded, double):
    policy = on_servers(sampled(loaded, double.url))
    double.asked.clear(), double.bodies.clear()
    transcript = asked(loaded, 1)
    replies(policy, transcript)
    replies(policy, *(asked(loaded, 1, text) for text in ("where?", "whose?")))
    assert double.asked[RENDER] == 1
    data = [body["features"]["kwargs_data"]["image"][0] for body in double.bodies]
    assert [bool(sent) for sent in data] == [True, False, False]

    double.cached.clear()  # as when the server has dropped it
    policy.offers[0].server.settings = replace_retries(policy.offers[0].server.settings, 1)
    [said] = replies(policy, transcript)
    assert said.token_ids
    assert double.bodies[-1]["features"]["kwargs_data"]["image"][0]


def replace_retries(settings: Rollouts, retries: int) -> Rollouts:
    return settings.model_copy(update={"retries": retries})


def test_a_group_stays_on_one_server_and_all_servers_have_work(loaded):
    with VLLMDouble(loaded, str(SHIPPED)) as one, VLLMDouble(loaded, str(SHIPPED)) as other:
        policy = on_servers(sampled(loaded, one.url, other.url))
        one.bodies.clear(), other.bodies.clear()
        talks = [asked(loaded, number) for number in (0, 0, 1, 1)]  # two groups of two
        for said, talk in zip(replies(policy, *talks), talks, strict=True):
            talk.add_assistant(said.token_ids, said.logprobs)
            talk.add_user("and where?")
        replies(policy, *talks)
    for server in (one, other):
        assert len(server.bodies) == 4
        assert len({body["features"]["mm_hashes"]["image"][0] for body in server.bodies}) == 1


def test_given_tokens_are_scored(loaded, double):
    policy = on_servers(sampled(loaded, double.url))
    transcript = asked(loaded, 2)

    async def score() -> list[float]:
        try:
            return await policy.score(transcript)
        finally:
            await close_all()

    ours = logprobs_at(trainer_logits(loaded.model, transcript), transcript.ids, 1, len(transcript.ids), 1)
    assert asyncio.run(score()) == pytest.approx([0.0, *ours], abs=1e-5)


def test_a_server_with_other_weights_is_refused(loaded, double):
    other = LoadedStudent(deepcopy(loaded.model), loaded.renderer)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight += 1e-3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    double.student = other
    with pytest.raises(UserError, match=r"offers .*student, whose log-probabilities differ .*vllm serve"):
        on_servers(sampled(loaded, double.url))


def test_a_server_that_puts_the_picture_elsewhere_is_refused(loaded, double):
    double.shift = 1
    with pytest.raises(UserError, match="whose log-probabilities differ"):
        on_servers(sampled(loaded, double.url))


def test_log_probabilities_before_the_temperature_are_refused(loaded, double):
    double.raw = True
    on_servers(sampled(loaded, double.url, temperature=1.0))
    with pytest.raises(UserError, match=r"gives its own samples other .*--logprobs-mode processed_logprobs"):
        on_servers(sampled(loaded, double.url, temperature=0.5))


def test_a_server_whose_context_is_too_short_is_refused(loaded, double):
    double.max_length = 100
    with pytest.raises(UserError, match=r"takes 100 tokens, and student.max_length is 512"):
        on_servers(sampled(loaded, double.url))


def test_the_server_that_has_these_weights_is_chosen(loaded, double, tmp_path):
    with VLLMDouble(loaded, "somebody/else") as other:
        policy = on_servers(sampled(loaded, other.url, double.url))
        assert [offer.server.url for offer in policy.offers] == [double.url]
        with pytest.raises(
            UserError, match=r"offers somebody/else, not .*student; start it with: vllm serve"
        ):
            on_servers(sampled(loaded, other.url))
        other.root = str(tmp_path)
        with pytest.raises(UserError, match=r"not .*student; start it with"):
            on_servers(sampled(loaded, other.url))
        other.root = "/on/another/machine"
        assert on_servers(sampled(loaded, other.url)).offers


def test_a_server_that_is_not_there_ends_the_run_with_one_line(loaded, double, monkeypatch):
    monkeypatch.setattr(vllm_server, "FIRST_WAIT_S", 0.01)
    with VLLMDouble(loaded, str(SHIPPED)) as gone:
        policy = on_servers(sampled(loaded, gone.url, retries=2))
    with pytest.raises(UserError, match=r"^rl.rollouts.base_url: http.*cannot connect.*to go on$"):
        replies(policy, asked(loaded, 0))
    with pytest.raises(UserError, match="cannot connect"):
        on_servers(sampled(loaded, gone.url))


def test_an_answer_that_does_not_come_costs_its_dialogue(loaded, double):
    policy = on_servers(sampled(loaded, double.url))
    double.fail[GENERATE] = 500
    with pytest.raises(EndpointError, match="1 tries: HTTP 500: no luck"):
        replies(policy, asked(loaded, 0))
    double.fail[GENERATE] = 0
    policy.offers[0].server.settings = Rollouts(engine="vllm", base_url=[double.url], timeout_s=0.2)
    with pytest.raises(EndpointError, match=r"no answer within 0.2 s"):
        replies(policy, asked(loaded, 0))


def test_of_two_trajectories_the_one_whose_answer_hangs_is_lost(loaded, double):
    policy = on_servers(sampled(loaded, double.url, timeout_s=5))
    policy.offers[0].server.settings = Rollouts(engine="vllm", base_url=[double.url], timeout_s=1.5)
    seat = StudentAssistant(policy, loaded.renderer, SETTINGS, lambda _: [], "test")
    talks = [Seed(id=name, kind=Kind.BENIGN, turns=[Turn(user=name)]) for name in ("hangs", "answers")]
    double.hangs = loaded.renderer.user_turn("hangs", [], True).ids

    async def both() -> list[Dialogue]:
        try:
            return await asyncio.gather(*(play(talk, Script(), seat, None) for talk in talks))
        finally:
            await close_all()

    lost, kept = asyncio.run(both())
    assert (lost.stop, lost.turns) == (StopReason.ASSISTANT_FAILED, [])
    assert lost.meta["error"] == f"endpoint: {double.url}: no answer within 1.5 s"
    assert kept.stop is StopReason.COMPLETED and kept.turns[0].assistant


def test_a_server_started_without_what_rollouts_need_is_told_so(loaded, double):
    double.fail[RENDER] = 404
    with pytest.raises(UserError, match=r"HTTP 404.*--enable-scale-out"):
        on_servers(sampled(loaded, double.url))


def test_what_is_no_address_is_refused() -> None:
    for url in ("localhost:8000", "http://a:0", "http://a:1/v1?key=k", "http://a:1/v1/chat/completions"):
        with pytest.raises(UserError, match=r"^rl\.rollouts\.base_url "):
            Server(url, Rollouts())
    assert Server("http://a:1/v1/", Rollouts()).url == "http://a:1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"engine": "vllm"}, "needs base_url"), ({"base_url": "http://a"}, "engine is transformers")],
)
def test_engine_and_address_belong_together(settings, message):
    with pytest.raises(ValidationError, match=message):
        Rollouts.model_validate(settings)


def features(*tokens: int) -> Features:
    return Features("image", "h", tokens, "d", None)


def test_pictures_stand_where_their_tokens_are():
    ids = [9, 3, 5, 5, 4, 8, 3, 5, 5, 5, 4, 7]
    assert placed(ids, [features(5, 5), features(5, 5, 5)]) == [2, 7]
    assert placed(ids[:5], [features(3, 5, 5, 4)]) == [1]
    assert placed([1, 2], []) == []
    for wrong in ([features(5, 5, 5), features(5, 5)], [features(5, 5)], [features(6)]):
        with pytest.raises(UserError, match="other picture tokens"):
            placed(ids, wrong)


@pytest.mark.parametrize("rank", [0, 1, 2, 5])
def test_each_process_begins_with_another_server(loaded, double, monkeypatch, rank):
    """A process counts its own dialogues alone: all would give their first ones to the same server."""
    [offer] = on_servers(sampled(loaded, double.url)).offers
    servers = [replace(offer, name=name) for name in "abc"]
    monkeypatch.setattr(processes, "rank", lambda: rank)
    policy = VLLMPolicy(servers, Sampling(8, 1.0))
    assert policy._offer(asked(loaded, 0)).name == "abcabc"[rank]
