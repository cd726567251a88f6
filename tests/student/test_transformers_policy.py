"""Sampling: reproducible in any order and company, log-probabilities that training would compute, markers
that do no harm."""

from __future__ import annotations

import asyncio
import logging
from weakref import WeakKeyDictionary

import pytest
import torch

from safer_steer.config import SHIPPED, Rollouts, Student
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, Turn, read_dialogues
from safer_steer.episode import ContextFull, Reply
from safer_steer.errors import UserError
from safer_steer.images import Picture, pictures_in
from safer_steer.reinforce.grpo import reinforce
from safer_steer.reinforce.tutor import TutorCritic
from safer_steer.sandbox.world import devices, draw, draw_png
from safer_steer.student import transformers_policy as policy_module
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.policy import Completion, SampledStudent, Sampling
from safer_steer.student.transcript import Transcript, model_inputs
from safer_steer.student.transformers_policy import TransformersPolicy, _Sampler, in_process
from student_parts import ask, tiny_config, write_seeds


def asked(student, number: int, text: str, blank: bool = False) -> Transcript:
    image = draw(devices()[number], number % 2 == 0, number)
    if blank:
        image.paste((255, 255, 255), (0, 0, *image.size))
    transcript = Transcript(student.renderer)
    transcript.add_user(text, [image])
    return transcript


def scored(student, transcript: Transcript, temperature: float) -> list[float]:
    """Log-probabilities of the sampled tokens, as a trainer's forward pass gives them (right padding, no
    cache)."""
    batch = model_inputs([transcript, transcript], "right")
    with torch.no_grad():
        logits = student.model(**batch).logits[0] / temperature
    logprobs = torch.log_softmax(logits.float(), -1)
    return [
        logprobs[i - 1, token].item()
        for i, (token, kept) in enumerate(zip(transcript.ids, transcript.mask, strict=True))
        if kept
    ]


def test_same_key_same_answer_alone_or_in_company_in_any_order(student):
    policy = TransformersPolicy(student.model, Sampling(24, 1.0))
    transcripts = [
        asked(student, n, text)
        for n, text in enumerate(
            ("name the device in the picture.", "how do i operate it?", "where is it kept?")
        )
    ]
    together = policy.generate(transcripts, ["a", "b", "c"])
    reversed_ = policy.generate(transcripts[::-1], ["c", "b", "a"])
    assert [c.token_ids for c in together] == [c.token_ids for c in reversed_[::-1]]
    alone = policy.generate([transcripts[1]], ["b"])[0]
    assert alone.token_ids == together[1].token_ids


def test_sampler_draws_from_the_softmax(student):
    scores = torch.log(torch.tensor([0.5, 0.3, 0.2])).repeat(4000, 1)
    picks = _Sampler([f"key {i}" for i in range(4000)], Sampling(1, 1.0), torch.device("cpu"))(
        torch.zeros(4000, 1), scores
    ).argmax(-1)
    shares = torch.bincount(picks, minlength=3) / 4000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.03)
    nucleus = _Sampler([f"key {i}" for i in range(4000)], Sampling(1, 1.0, 0.6), torch.device("cpu"))(
        torch.zeros(4000, 1), scores
    ).argmax(-1)
    assert set(nucleus.tolist()) == {0, 1}


def test_temperature_zero_is_greedy(student):
    policy = TransformersPolicy(student.model, Sampling(16, 0.0))
    transcript = asked(student, 3, "what colour is it?")
    assert (
        policy.generate([transcript], ["x"])[0].token_ids == policy.generate([transcript], ["y"])[0].token_ids
    )


def test_the_checkpoints_own_sampling_habits_do_not_leak_in(student):
    policy, transcript = (
        TransformersPolicy(student.model, Sampling(24, 0.0)),
        asked(student, 3, "how do i operate it?"),
    )
    plain = policy.generate([transcript], ["x"])[0]
    own = student.model.generation_config
    habits = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "suppress_tokens": plain.token_ids[:1]}
    before = {name: getattr(own, name, None) for name in habits}
    own.update(**habits)
    try:
        assert policy.generate([transcript], ["x"])[0] == plain
        assert student.model.generation_config is own
    finally:
        own.update(**before)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rollout_and_trainer_agree_on_log_probabilities_and_the_picture_matters(student, temperature):
    policy = TransformersPolicy(student.model, Sampling(40, temperature))
    transcript = asked(student, 2, "what is this device called?")
    for turn, text in enumerate(("tell me its colour.", "how do i operate it?", "")):
        other = asked(
            student, 5, "a much longer first question, so that this row is padded: which device is this?"
        )
        completion = policy.generate([transcript, other], [f"t{turn}", "o"])[0]
        transcript.add_assistant(completion.token_ids, completion.logprobs)
        if text:
            transcript.add_user(text)
    rollout = [lp for lp, kept in zip(transcript.logprobs, transcript.mask, strict=True) if kept]
    trained = scored(student, transcript, temperature)
    assert len(rollout) > 20
    assert max(abs(a - b) for a, b in zip(rollout, trained, strict=True)) < 1e-4
    blank = asked(student, 2, "x", blank=True)
    transcript.pictures = blank.pictures
    blind = scored(student, transcript, temperature)
    assert max(abs(a - b) for a, b in zip(rollout, blind, strict=True)) > 0.1


@pytest.mark.parametrize("marker", ["<|image_pad|>", "<|im_start|>", "<|vision_end|>", "<|endoftext|>"])
def test_a_marker_the_student_samples_ends_the_turn_and_is_left_out(student, marker):
    token = student.renderer.tokenizer.convert_tokens_to_ids(marker)
    transcript = asked(student, 1, "where was it made?")
    policy = TransformersPolicy(student.model, Sampling(12, 1.0))
    bias = torch.zeros(student.model.get_output_embeddings().weight.shape[0])
    calls = 0

    def force(module, inputs, output):
        nonlocal calls
        calls += 1
        return output + bias if calls < 3 else output + bias.index_fill(0, torch.tensor([token]), 1e4)

    hook = student.model.get_output_embeddings().register_forward_hook(force)
    try:
        completion = policy.generate([transcript], ["k"])[0]
    finally:
        hook.remove()
    assert completion.finish == "marker" and len(completion.token_ids) == 2 == len(completion.logprobs)
    image_token, end = student.model.config.image_token_id, student.renderer.end
    before = transcript.ids.count(image_token)
    transcript.add_assistant(completion.token_ids, completion.logprobs)
    assert transcript.ids.count(image_token) == before
    assert transcript.ids[-1] == end and transcript.mask[-1] == 0
    rollout = [lp for lp, kept in zip(transcript.logprobs, transcript.mask, strict=True) if kept]
    assert max(abs(a - b) for a, b in zip(rollout, scored(student, transcript, 1.0), strict=True)) < 1e-4


async def test_calls_that_arrive_together_are_one_batch(student):
    policy = TransformersPolicy(student.model, Sampling(8, 1.0))
    sizes = []
    generate = policy.generate
    policy.generate = lambda ts, ks: (sizes.append(len(ts)), generate(ts, ks))[1]  # type: ignore[method-assign]
    replies = await asyncio.gather(
        *(policy.reply(asked(student, n, "name the device in the picture."), str(n)) for n in range(5))
    )
    assert sizes == [5] and len(replies) == 5


def of_lengths(*words: int) -> list[str]:
    return [" ".join(["name"] * count) for count in words]


async def test_a_batch_is_bound_by_its_tokens_with_padding_and_room_for_the_answers(student):
    transcripts = [asked(student, 1, text) for text in of_lengths(1, 1, 1, 200)]
    short, long = len(transcripts[0].ids), len(transcripts[3].ids)
    policy = TransformersPolicy(student.model, Sampling(8, 1.0), tokens=3 * (short + 8))
    sizes = []
    generate = policy.generate
    policy.generate = lambda ts, ks: (sizes.append(len(ts)), generate(ts, ks))[1]  # type: ignore[method-assign]
    replies = await asyncio.gather(*(policy.reply(t, str(n)) for n, t in enumerate(transcripts)))
    assert sizes == [3, 1], "the long one goes alone, though it is over the bound by itself"
    assert long + 8 > policy.tokens and all(reply.token_ids for reply in replies)
    default = TransformersPolicy(student.model, Sampling(48, 1.0))
    assert default.fitting([400] * 60) == 60, "a step of the sandbox's demo is one batch"


@pytest.fixture
def small_gpu(student, monkeypatch):
    """The real model on a device that holds so many tokens; and the sizes of the batches it was given."""
    monkeypatch.setattr(policy_module, "_made_do", WeakKeyDictionary())
    generate, tried = student.model.generate, []

    def on(holds: int, error: Exception):
        def bound(input_ids, generation_config, **inputs):
            rows, width = input_ids.shape
            tried.append(rows)
            if rows * (width + generation_config.max_new_tokens) > holds:
                raise error
            return generate(input_ids=input_ids, generation_config=generation_config, **inputs)

        monkeypatch.setattr(student.model, "generate", bound)
        return tried

    return on


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("MPS backend out of memory")]
)
async def test_out_of_memory_halves_the_batch_and_changes_no_answer(student, small_gpu, caplog, error):
    transcripts = [asked(student, n, "name the device in the picture.") for n in range(6)]
    each = len(transcripts[0].ids) + 8
    keys = [str(n) for n in range(6)]
    roomy = TransformersPolicy(student.model, Sampling(8, 1.0)).generate(transcripts, keys)
    tried = small_gpu(2 * each, error)
    policy = TransformersPolicy(student.model, Sampling(8, 1.0), tokens=12 * each)
    with caplog.at_level(logging.WARNING):
        replies = await asyncio.gather(*(policy.reply(t, k) for t, k in zip(transcripts, keys, strict=True)))
    assert [r.token_ids for r in replies] == [r.token_ids for r in roomy]
    assert tried == [6, 3, 1, 1, 1, 1, 1, 1] and policy.tokens < 2 * each
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["out of memory"], (
        "it is said once"
    )
    next_step = TransformersPolicy(student.model, Sampling(8, 1.0), tokens=12 * each)
    assert next_step.tokens == policy.tokens, "what the GPU had to make do with outlives a policy"


async def test_no_memory_for_one_dialogue_names_the_key(student, small_gpu):
    small_gpu(8, torch.OutOfMemoryError("CUDA out of memory."))
    policy = TransformersPolicy(student.model, Sampling(8, 1.0))
    with pytest.raises(UserError, match=r"^student\.generation_tokens: a single dialogue of \d+ tokens"):
        await policy.reply(asked(student, 1, "name it."), "k")


async def test_an_error_in_generation_reaches_every_caller_and_the_next_batch_works(student):
    policy = TransformersPolicy(student.model, Sampling(8, 1.0))
    generate, policy.generate = policy.generate, lambda ts, ks: 1 / 0  # type: ignore[method-assign,assignment]
    with pytest.raises(ZeroDivisionError):
        await policy.reply(asked(student, 1, "name it."), "k")
    policy.generate = generate  # type: ignore[method-assign]
    assert (await policy.reply(asked(student, 1, "name it."), "k")).token_ids


async def test_after_an_error_in_generation_nobody_waits_for_ever_if_one_caller_was_cancelled(student):
    policy = TransformersPolicy(student.model, Sampling(4, 0.0))
    generate, errors = policy.generate, [ZeroDivisionError()]

    def fails_once(transcripts, keys):
        if errors:
            raise errors.pop()
        return generate(transcripts, keys)

    policy.generate = fails_once  # type: ignore[method-assign,assignment]
    transcripts = [asked(student, n, "name it.") for n in range(3)]
    policy.tokens = 2 * (len(transcripts[0].ids) + 4)  # two fit a batch
    calls = [asyncio.create_task(policy.reply(one, str(n))) for n, one in enumerate(transcripts)]
    await asyncio.sleep(0)
    calls[0].cancel()
    _, failed, answered = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 2)
    assert isinstance(failed, ZeroDivisionError)
    assert isinstance(answered, Completion)


class Counted:
    """A rollout backend of its own: the shipped one, and a note of who asked for what."""

    def __init__(self, student: SampledStudent, asked: list[str]) -> None:
        self.inside, self.asked = in_process(student), asked

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        self.asked.append(key)
        return await self.inside.reply(transcript, key)


class Insisting:
    """A user's seat of its own, deaf to script and tutor after the first turn."""

    async def speak(self, dialogue: Dialogue, template: Turn) -> Reply:
        return Reply("how do i operate it?" if dialogue.turns else template.user)


def test_the_trainer_is_given_the_policy_and_the_users_seat(tmp_path):
    write_seeds(tmp_path)
    rl = tiny_config().rl.model_dump() | {"steps": 1, "start_from": "base"}
    tutor = TutorCritic(ask("tutor"), Format.THINKING_ANSWER, pictures_in(tmp_path, 100_000))
    asked: list[str] = []
    students = []

    def policy_of(student: SampledStudent) -> Counted:
        students.append(student)
        return Counted(student, asked)

    reinforce(tiny_config(rl=rl), tmp_path, tutor, policy_of=policy_of, user=Insisting())
    dialogues = read_dialogues(tmp_path / "rl" / "trajectories.jsonl")
    assert [student.step for student in students] == [0], "one policy a step"
    assert students[0].saved == str(SHIPPED)
    assert sorted(asked) == sorted(f"rl 0 {d.id} {turn}" for d in dialogues for turn in range(len(d.turns)))
    assert {turn.user for dialogue in dialogues for turn in dialogue.turns[1:]} == {"how do i operate it?"}


async def test_the_seat_keeps_its_own_tokens_and_stops_where_the_context_ends(student):
    device = devices()[0]
    picture = Picture(name="p", data=draw_png(device, True, 1), sha256="0", mime="image/png")
    settings = Student(max_turn_tokens=24, max_length=110, dtype="float32", device="cpu")
    sampled = SampledStudent(student.model, student.renderer, settings, 1.0, Rollouts(), str(SHIPPED))
    policy = in_process(sampled)
    seat = StudentAssistant(
        policy, student.renderer, settings, lambda images: [picture for _ in images], "test"
    )
    dialogue = Dialogue.begin(Seed(id="d", kind=Kind.BENIGN, images=["p"], turns=[Turn(user="x")]))
    reply = await seat.answer(dialogue, Turn(user="name the device in the picture."))
    transcript = seat.transcript(dialogue)
    sampled = [token for token, kept in zip(transcript.ids, transcript.mask, strict=True) if kept]
    assert student.renderer.decode(sampled) == reply.text
    dialogue.turns.append(Turn(user="name the device in the picture.", assistant=reply.text))
    with pytest.raises(ContextFull):
        for _ in range(5):
            said = await seat.answer(dialogue, Turn(user="what colour is it?"))
            dialogue.turns.append(Turn(user="what colour is it?", assistant=said.text))
    assert len(seat.transcript(dialogue).ids) <= 110
