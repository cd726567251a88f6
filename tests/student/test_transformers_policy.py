"""Sampling: reproducible in any order and company, log-probabilities that training would compute, markers
that do no harm, and no history read twice."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from safer_steer.config import SHIPPED, Student
from safer_steer.config.rl import Rollouts
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, Turn, read_dialogues
from safer_steer.episode import ContextFull
from safer_steer.errors import UserError
from safer_steer.files.images import Picture, pictures_in
from safer_steer.sandbox.world import devices, draw, draw_png
from safer_steer.student import decoding
from safer_steer.student import transformers_policy as policy_module
from safer_steer.student.assistant import StudentAssistant, add_user
from safer_steer.student.decoding import Row
from safer_steer.student.policy import Completion, SampledStudent, Sampling
from safer_steer.student.transcript import Transcript, model_inputs
from safer_steer.student.transformers_policy import TransformersPolicy, in_process
from safer_steer.training.grpo import reinforce
from safer_steer.training.tutor import TutorCritic
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
    rows = [Row(f"key {i}", Transcript(student.renderer)) for i in range(4000)]
    for row in rows:
        row.begin(torch.device("cpu"))
    picks = decoding.draw(scores, rows, Sampling(1, 1.0))[0].argmax(-1)
    shares = torch.bincount(picks, minlength=3) / 4000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.03)


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
    policy.generate([asked(student, 1, "what colour is it?")], ["first"])  # it has seen the model's cache
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


Reads = list[tuple[int, int, int]]
"""Of each forward pass: rows, tokens read, and tokens of the longest row with all before them."""


@contextmanager
def watching(model, meddle: Callable[[Reads], None] = lambda reads: None) -> Iterator[Reads]:
    """Note every forward pass of the model, but not the question what cache it makes."""
    reads: Reads = []

    def note(module, args, inputs):
        if inputs.get("past_key_values") is not None:
            reads.append((*inputs["input_ids"].shape, inputs["attention_mask"].shape[1]))
            meddle(reads)

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield reads
    finally:
        hook.remove()


def prefills(reads: Reads) -> list[int]:
    """Rows of each forward pass that read more than one token."""
    return [rows for rows, tokens, _ in reads if tokens > 1]


@pytest.fixture
def endless(student) -> Iterator[None]:
    """The student never ends a turn."""
    size = student.model.get_output_embeddings().weight.shape[0]
    bias = torch.zeros(size).index_fill(0, torch.tensor(student.renderer.stops), -1e4)
    hook = student.model.get_output_embeddings().register_forward_hook(lambda m, i, out: out + bias)
    yield
    hook.remove()


async def test_calls_that_arrive_together_are_one_batch(student):
    policy = TransformersPolicy(student.model, Sampling(8, 1.0))
    with watching(student.model) as reads:
        replies = await asyncio.gather(
            *(policy.reply(asked(student, n, "name the device in the picture."), str(n)) for n in range(5))
        )
    assert prefills(reads) == [5] and len(replies) == 5


async def test_a_call_joins_answers_in_the_making_and_none_waits_for_another(student, endless):
    """The second comes after the first has begun, and goes on when it has ended."""
    transcripts = [asked(student, n, text) for n, text in enumerate(("name it.", "how do i operate it?"))]
    alone = [
        TransformersPolicy(student.model, Sampling(30, 1.0)).generate([one], [str(n)])[0]
        for n, one in enumerate(transcripts)
    ]
    policy, ended = TransformersPolicy(student.model, Sampling(30, 1.0)), []
    loop, begun = asyncio.get_running_loop(), asyncio.Event()

    def tell(reads: Reads) -> None:
        if len(reads) == 10:
            loop.call_soon_threadsafe(begun.set)

    async def reply(number: int) -> Completion:
        found = await policy.reply(transcripts[number], str(number))
        ended.append(number)
        return found

    with watching(student.model, tell) as reads:
        first = asyncio.create_task(reply(0))
        await begun.wait()
        replies = await asyncio.gather(first, reply(1))
    assert [reply.token_ids for reply in replies] == [one.token_ids for one in alone]
    rows = [rows for rows, _, _ in reads]
    assert prefills(reads) == [1, 1] and ended == [0, 1]
    joined, left = rows.index(2), len(rows) - rows[::-1].index(2)
    assert set(rows[:joined]) == {1} == set(rows[left:]) and 10 <= joined < left < len(rows)


async def test_a_cancelled_call_leaves_the_batch_and_the_others_keep_their_answers(student, endless):
    transcripts = [asked(student, n, "name it.") for n in range(3)]
    alone = TransformersPolicy(student.model, Sampling(30, 1.0)).generate(transcripts[1:], ["1", "2"])
    policy = TransformersPolicy(student.model, Sampling(30, 1.0))
    loop = asyncio.get_running_loop()
    with watching(
        student.model, lambda reads: len(reads) == 6 and loop.call_soon_threadsafe(calls[0].cancel)
    ) as reads:
        calls = [asyncio.create_task(policy.reply(one, str(n))) for n, one in enumerate(transcripts)]
        gone, *replies = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(gone, asyncio.CancelledError)
    assert [reply.token_ids for reply in replies] == [one.token_ids for one in alone]
    assert {rows for rows, _, _ in reads[:6]} == {3} and reads[-1][0] == 2
    assert len(policy.caches) == 2


def of_lengths(*words: int) -> list[str]:
    return [" ".join(["name"] * count) for count in words]


async def test_a_batch_is_bound_by_its_tokens_with_padding_and_room_for_the_answers(student, endless):
    transcripts = [asked(student, n, text) for n, text in enumerate(of_lengths(1, 1, 1, 200))]
    short, long = max(len(one.ids) for one in transcripts[:3]), len(transcripts[3].ids)
    policy = TransformersPolicy(student.model, Sampling(8, 1.0), tokens=3 * (short + 8))
    with watching(student.model) as reads:
        replies = await asyncio.gather(*(policy.reply(t, str(n)) for n, t in enumerate(transcripts)))
    assert prefills(reads) == [3, 1] and max(rows for rows, _, _ in reads) == 3
    assert reads[-1][0] == 1, "the long one goes alone, though it is over the bound by itself"
    assert long + 8 > policy.tokens and all(reply.token_ids for reply in replies)
    default = TransformersPolicy(student.model, Sampling(48, 1.0))
    many = [Row(str(n), transcripts[3]) for n in range(60)]
    assert default.fits(many), "a step of the sandbox's demo is one batch"


@pytest.fixture
def small_gpu(student, monkeypatch):
    """The real model on a device that holds so many tokens; gives all its forward passes."""
    monkeypatch.setattr(policy_module, "_budgets", WeakKeyDictionary())

    @contextmanager
    def on(holds: int, error: Exception) -> Iterator[Reads]:
        def bound(reads: Reads) -> None:
            rows, _, width = reads[-1]
            if rows * width > holds:
                raise error

        with watching(student.model, bound) as reads:
            yield reads

    return on


CUDA = torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("error", [CUDA, RuntimeError("MPS backend out of memory")])
async def test_out_of_memory_halves_the_batch_and_changes_no_answer(student, small_gpu, caplog, error):
    transcripts = [asked(student, n, "name the device in the picture.") for n in range(6)]
    each = len(transcripts[0].ids) + 8
    keys = [str(n) for n in range(6)]
    roomy = TransformersPolicy(student.model, Sampling(8, 1.0)).generate(transcripts, keys)
    policy = TransformersPolicy(student.model, Sampling(8, 1.0), tokens=12 * each, kept_tokens=0)
    with caplog.at_level(logging.WARNING), small_gpu(2 * each, error) as reads:
        replies = await asyncio.gather(*(policy.reply(t, k) for t, k in zip(transcripts, keys, strict=True)))
    assert [r.token_ids for r in replies] == [r.token_ids for r in roomy]
    assert prefills(reads) == [6, 3, 1, 1, 1, 1, 1, 1] and policy.tokens < 2 * each
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["out of memory"], (
        "it is said once"
    )
    next_step = TransformersPolicy(student.model, Sampling(8, 1.0), tokens=12 * each)
    assert next_step.tokens == policy.tokens, "what the GPU had to make do with outlives a policy"


async def test_out_of_memory_within_answers_begins_them_again(student, small_gpu, endless):
    transcripts = [asked(student, n, "name it.") for n in range(4)]
    keys = [str(n) for n in range(4)]
    roomy = TransformersPolicy(student.model, Sampling(12, 1.0)).generate(transcripts, keys)
    policy = TransformersPolicy(student.model, Sampling(12, 1.0))
    with small_gpu(4 * (len(transcripts[0].ids) + 5), CUDA) as reads:
        replies = await asyncio.gather(*(policy.reply(t, k) for t, k in zip(transcripts, keys, strict=True)))
    assert replies == roomy or [r.token_ids for r in replies] == [r.token_ids for r in roomy]
    assert prefills(reads)[0] == 4 and max(prefills(reads)[1:]) < 4 and reads[3][0] == 4


async def test_out_of_memory_gives_up_what_is_kept_first(student, small_gpu):
    policy, transcript = TransformersPolicy(student.model, Sampling(8, 1.0)), asked(student, 1, "name it.")
    first = await policy.reply(transcript, "1")
    others = [asked(student, n, "what colour is it?") for n in range(2)]
    before = policy.tokens, policy.caches.limit
    assert len(policy.caches) == 1
    errors = [CUDA]

    def fails_once(reads: Reads) -> None:
        if errors:
            raise errors.pop()

    with watching(student.model, fails_once) as reads:
        await asyncio.gather(*(policy.reply(one, str(n)) for n, one in enumerate(others)))
    assert prefills(reads) == [2, 2]
    assert (policy.tokens, policy.caches.limit) == (before[0], before[1] // 2) and first.token_ids


async def test_no_memory_for_one_dialogue_names_the_key(student, small_gpu):
    policy = TransformersPolicy(student.model, Sampling(8, 1.0))
    transcript = asked(student, 1, "name it.")
    for holds in (8, len(transcript.ids) + 1):  # at its first token, and at a later one
        with (
            small_gpu(holds, CUDA),
            pytest.raises(UserError, match=r"^student\.generation_tokens: a single dialogue of \d+ tokens"),
        ):
            await asyncio.wait_for(policy.reply(transcript, "k"), 20)


async def test_an_error_in_generation_reaches_every_caller_and_the_next_batch_works(student):
    policy = TransformersPolicy(student.model, Sampling(8, 1.0))
    calls = (policy.reply(asked(student, n, "name it."), str(n)) for n in range(2))
    with watching(student.model, lambda reads: 1 / 0):
        failed = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in failed] == [ZeroDivisionError] * 2
    assert (await policy.reply(asked(student, 1, "name it."), "k")).token_ids


async def test_after_an_error_in_generation_nobody_waits_for_ever_if_one_caller_was_cancelled(student):
    policy = TransformersPolicy(student.model, Sampling(4, 0.0))
    errors = [ZeroDivisionError()]

    def fails_once(reads: Reads) -> None:
        if errors:
            calls[0].get_loop().call_soon_threadsafe(calls[0].cancel)
            raise errors.pop()

    transcripts = [asked(student, n, "name it.") for n in range(3)]
    policy.tokens = 2 * (len(transcripts[0].ids) + 4)  # two fit a batch
    with watching(student.model, fails_once):
        calls = [asyncio.create_task(policy.reply(one, str(n))) for n, one in enumerate(transcripts)]
        gone, failed, answered = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
    assert isinstance(gone, asyncio.CancelledError) and isinstance(failed, ZeroDivisionError)
    assert isinstance(answered, Completion)


def talked(policy: TransformersPolicy, transcripts: list[Transcript], *questions: str) -> None:
    """Play turns: an answer to what was asked last, and then to each question."""
    for number, question in enumerate((*questions, "")):
        keys = [f"{row} {number}" for row in range(len(transcripts))]
        for transcript, found in zip(transcripts, policy.generate(transcripts, keys), strict=True):
            transcript.add_assistant(found.token_ids, found.logprobs)
            if question:
                transcript.add_user(question)


QUESTIONS = ("what colour is it?", "how do i operate it?", "and where is it kept?")


def trio(student) -> list[Transcript]:
    texts = ("name it.", "which device is shown in the picture?", "where is it kept?")
    return [asked(student, n, text) for n, text in enumerate(texts)]


def test_a_history_is_read_once_and_the_answers_are_the_same(student):
    keeping = TransformersPolicy(student.model, Sampling(12, 1.0))
    forgetting = TransformersPolicy(student.model, Sampling(12, 1.0), kept_tokens=0)
    kept, forgotten = trio(student), trio(student)
    talked(keeping, kept, *QUESTIONS)
    talked(forgetting, forgotten, *QUESTIONS)
    assert [one.ids for one in kept] == [one.ids for one in forgotten]
    gaps = [
        abs(a - b)
        for one, other in zip(kept, forgotten, strict=True)
        for a, b in zip(one.logprobs, other.logprobs, strict=True)
    ]
    assert max(gaps) < 1e-5
    assert keeping.prefilled < sum(len(one.ids) for one in kept)
    assert forgetting.prefilled > 2 * keeping.prefilled
    assert len(keeping.caches) == 3 and len(forgetting.caches) == 0


def test_dialogues_that_begin_alike_read_their_first_prompt_once(student):
    group = [asked(student, 1, "how do i operate it?") for _ in range(4)]
    other = asked(student, 2, "how do i operate it?")
    keys = [str(n) for n in range(5)]
    alone = [
        TransformersPolicy(student.model, Sampling(16, 2.0)).generate([one], [key])[0]
        for one, key in zip([*group, other], keys, strict=True)
    ]
    policy = TransformersPolicy(student.model, Sampling(16, 2.0))
    found = policy.generate([*group, other], keys)
    assert [one.token_ids for one in found] == [one.token_ids for one in alone]
    assert len({tuple(one.token_ids) for one in found[:4]}) > 1
    assert policy.prefilled == len(other.ids) + len(group[0].ids), "the same question about another picture"


def test_what_is_kept_is_bound_and_the_least_recently_used_goes_first(student):
    transcripts, alone = trio(student), trio(student)
    talked(TransformersPolicy(student.model, Sampling(12, 1.0)), alone, *QUESTIONS)
    policy = TransformersPolicy(student.model, Sampling(12, 1.0), kept_tokens=160)
    talked(policy, transcripts, *QUESTIONS)
    assert [one.ids for one in transcripts] == [one.ids for one in alone]
    assert 0 < policy.caches.tokens <= 160 and len(policy.caches) < 3
    roomy = TransformersPolicy(student.model, Sampling(12, 1.0), kept_tokens=10_000)
    for place, one in enumerate(trio(student)):
        transcripts[place] = one
        roomy.generate([one], [str(place)])
    roomy.caches.limit = roomy.caches.tokens
    roomy.generate([asked(student, 4, "name it.")], ["4"])
    assert transcripts[0].origin not in roomy.caches._caches and transcripts[2].origin in roomy.caches._caches


def test_what_is_kept_goes_with_its_dialogue_and_with_its_weights(student):
    policy = TransformersPolicy(student.model, Sampling(8, 1.0))
    transcripts = trio(student)
    talked(policy, transcripts)
    transcripts.pop()
    gc.collect()
    assert len(policy.caches) == 2
    with torch.no_grad():
        for weight in student.model.parameters():
            weight.mul_(1.0)  # as an optimiser's step does
    transcripts[0].add_user("what colour is it?")
    before = policy.prefilled
    policy.generate(transcripts[:1], ["k"])
    assert policy.prefilled - before == len(transcripts[0].ids) and len(policy.caches) == 1


def test_another_past_or_other_pictures_are_read_again(student):
    policy = TransformersPolicy(student.model, Sampling(8, 1.0))
    for change in ("none", "pictures", "past"):
        transcript = asked(student, 2, "name it.")
        talked(policy, [transcript])
        transcript.add_user("what colour is it?")
        if change == "pictures":
            transcript.pictures = asked(student, 2, "x", blank=True).pictures
        if change == "past":
            transcript.ids[-30] += 1
        before = policy.prefilled
        found = policy.generate([transcript], ["k"])[0]
        read = policy.prefilled - before
        assert read == len(transcript.ids) if change != "none" else read < len(transcript.ids) / 2
        fresh = TransformersPolicy(student.model, Sampling(8, 1.0)).generate([transcript.copy()], ["k"])[0]
        assert found.token_ids == fresh.token_ids


class Counted:
    """A rollout backend of its own: the shipped one, and a note of who asked for what."""

    def __init__(self, student: SampledStudent, asked: list[str]) -> None:
        self.inside, self.asked = in_process(student), asked

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        self.asked.append(key)
        return await self.inside.reply(transcript, key)


@pytest.mark.slow
def test_the_trainer_is_given_one_policy_a_step(tmp_path):
    write_seeds(tmp_path)
    rl = tiny_config().rl.model_dump() | {"steps": 2, "start_from": "base"}
    tutor = TutorCritic(ask("tutor"), Format.THINKING_ANSWER, pictures_in(tmp_path, 100_000))
    asked: list[str] = []
    students, policies, alive = [], [], []

    def policy_of(student: SampledStudent) -> Counted:
        students.append(student)
        alive.append([policy() for policy in policies])
        made = Counted(student, asked)
        policies.append(weakref.ref(made.inside))
        return made

    reinforce(tiny_config(rl=rl), tmp_path, tutor, policy_of=policy_of)
    dialogues = read_dialogues(tmp_path / "rl" / "trajectories.jsonl")
    assert [student.step for student in students] == [0, 1], "one policy a step"
    assert alive == [[], [None]], "what a policy keeps goes with its step"
    assert students[0].saved == str(SHIPPED)
    assert sorted(asked) == sorted(f"rl 0 {d.id} {turn}" for d in dialogues for turn in range(len(d.turns)))


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
    dialogue.turns.append(Turn(user="name the device in the picture.", assistant=reply.text))
    transcript = seat.transcript(dialogue)
    sampled = [token for token, kept in zip(transcript.ids, transcript.mask, strict=True) if kept]
    assert student.renderer.decode(sampled) == reply.text
    with pytest.raises(ContextFull):
        for _ in range(5):
            said = await seat.answer(dialogue, Turn(user="what colour is it?"))
            dialogue.turns.append(Turn(user="what colour is it?", assistant=said.text))
    assert len(seat.transcript(dialogue).ids) <= 110


def test_the_first_turn_of_a_group_is_rendered_once(student, monkeypatch):
    shown = [
        Picture(name, draw_png(device, True, 1), name, "image/png")
        for name, device in zip("ab", devices(), strict=False)
    ]
    seat = StudentAssistant(
        None, student.renderer, Student(), lambda names: [shown["ab".index(*names)]], "test"
    )
    rendered = []
    render = student.renderer.user_turn
    monkeypatch.setattr(
        student.renderer, "user_turn", lambda *said, **how: rendered.append(said[0]) or render(*said, **how)
    )

    def begun(image: str, text: str) -> Transcript:
        seed = Seed(id="d", kind=Kind.BENIGN, images=[image], turns=[Turn(user=text)])
        return seat.asked(Dialogue.begin(seed), seed.turns[0])

    group = [begun("a", "what is it?") for _ in range(3)]
    assert rendered == ["what is it?"]
    assert len({id(one.origin) for one in group}) == 3 and group[0] == group[1] == group[2]
    group[0].add_answer("a lamp")
    assert group[1] == group[2] != group[0]
    assert group[1].pictures[0] is group[2].pictures[0]
    for place, text in ((1, "what is it?"), (1, "what colour is it?"), (0, "what colour is it?")):
        other, alone = begun("ab"[place], text), Transcript(student.renderer)
        add_user(alone, text, [shown[place]])
        assert other.ids == alone.ids
        assert torch.equal(other.pictures[0]["pixel_values"], alone.pictures[0]["pixel_values"])


def test_float32_weights_are_cast_to_bfloat16_once_for_all_tokens(student):
    class Casts(TorchDispatchMode):
        weights = 0

        def __torch_dispatch__(self, of, types, args=(), kwargs=None):
            if of is torch.ops.aten._to_copy.default and args[0].shape == (512, 192):
                self.weights += 1
            return of(*args, **(kwargs or {}))

    policy = TransformersPolicy(student.model, Sampling(6), half=True)
    with Casts() as casts:
        policy.generate([asked(student, 0, "what is it?")], ["key"])
    up_and_gate = 2 * student.model.config.get_text_config().num_hidden_layers
    assert casts.weights == up_and_gate
