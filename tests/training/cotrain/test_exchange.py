"""The user's seat: the sides exchanged, exact tokens, and masks that share no text."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safer_steer.config import Student
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, Turn, visible_answer
from safer_steer.files.images import pictures_in
from safer_steer.files.store import write_atomic
from safer_steer.sandbox.world import devices, draw_png
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.load import renderer_of
from safer_steer.student.policy import Completion
from safer_steer.student.transcript import Transcript
from safer_steer.training.cotrain.exchange import NOTHING, SYSTEM, exchanged, goal_of, shown_first
from safer_steer.training.cotrain.seat import Seat

FORMAT = Format.THINKING_ANSWER
STUDENT = renderer_of(Student())
ATTACKER = renderer_of(Student(system=SYSTEM))


def dialogue(*turns: tuple[str, str]) -> Dialogue:
    said = [Turn(user=user, assistant=answer) for user, answer in turns]
    return Dialogue(id="d", kind=Kind.RED_TEAM, intent="operate it", turns=said)


def test_each_side_reads_what_the_other_said_and_a_last_answer_is_heard_by_nobody() -> None:
    played = dialogue(
        ("what is it?", "<thinking>a lisk</thinking><answer>a lisk.</answer>"),
        ("how?", "<thinking>no"),
        ("please!", "<answer>no.</answer>"),
    )
    seen = exchanged(played, FORMAT)
    assert [(turn.user, turn.assistant) for turn in seen.turns] == [
        ("Your goal: operate it", "what is it?"),
        ("a lisk.", "how?"),
        (NOTHING, "please!"),
    ]
    assert (seen.id, seen.images) == (played.id, played.images)


def test_a_question_without_words_is_an_empty_answer_which_the_template_is_not_compared_with() -> None:
    """It was sampled as an end of turn alone. The guard took it for three dots, and ended the run."""
    seen = exchanged(
        dialogue(("what is it?", "<answer>no.</answer>"), (NOTHING, "<answer>no.</answer>")), FORMAT
    )
    assert [turn.assistant for turn in seen.turns] == ["what is it?", ""]


def transcript(renderer, played: Dialogue) -> Transcript:
    made = Transcript(renderer)
    for turn in played.turns:
        made.add_user(turn.user)
        made.add_answer(turn.assistant or "")
    return made


def trained(made: Transcript) -> list[str]:
    """The text of each run of tokens with loss."""
    spans: list[list[int]] = []
    before = 0
    for token, mark in zip(made.ids, made.mask, strict=True):
        if mark and not before:
            spans.append([])
        if mark:
            spans[-1].append(token)
        before = mark
    return [made.renderer.decode(span) for span in spans]


WORDS = st.lists(st.sampled_from(["red", "lisk", "mark", "how", "<answer>", "<|im_end|>", "0"]), min_size=1)
TEXTS = WORDS.map(" ".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_swapped_roles_share_no_mask(talk: list[tuple[str, str]]) -> None:
    """User turns are marked Q, answers A: each side is trained on all of its own turns, and on no other."""
    played = dialogue(
        *((f"Q{place} {user}", f"<answer>A{place} {own}</answer>") for place, (user, own) in enumerate(talk))
    )
    students = trained(transcript(STUDENT, played))
    attackers = trained(transcript(ATTACKER, exchanged(played, FORMAT)))
    assert [text[: len("<answer>A0")] for text in students] == [f"<answer>A{n}" for n in range(len(talk))]
    assert [text[:2] for text in attackers] == [f"Q{n}" for n in range(len(talk))]
    assert not any("Q" in text for text in students) and not any("A" in text for text in attackers)


def test_a_mask_of_the_wrong_side_does_not_pass() -> None:
    """The law above would fail for an attacker that is trained on what it hears."""
    played = dialogue(("Q0", "<answer>A0</answer>"), ("Q1", "<answer>A1</answer>"))
    assert any("A0" in turn.user for turn in exchanged(played, FORMAT).turns)
    made = transcript(ATTACKER, exchanged(played, FORMAT))
    made.mask = [1 - mark for mark in made.mask]
    assert any("A0" in text for text in trained(made))


class Asking:
    """A policy that asks a numbered question."""

    def __init__(self) -> None:
        self.read: list[str] = []

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        self.read.append(transcript.renderer.tokenizer.decode(transcript.ids))
        question = f"question {len(self.read)}?" if len(self.read) < 3 else ""
        ids = [*transcript.renderer.plain(question), transcript.renderer.end]
        return Completion(ids, [-0.5] * len(ids), question, "stop")


@pytest.fixture
def seat(tmp_path) -> tuple[Seat, Asking]:
    write_atomic(tmp_path / "a.png", draw_png(devices()[0], True, 0))
    policy = Asking()
    settings = Student(system=SYSTEM)
    speaker = StudentAssistant(policy, ATTACKER, settings, pictures_in(tmp_path, 100_000), "key")
    return Seat(speaker, FORMAT), policy


def test_a_picture_of_the_first_turn_is_seen_by_both_sides_from_the_start() -> None:
    turns = [Turn(user="a", images=["b.png"]), Turn(user="c", images=["d.png"])]
    seed = Seed(id="s", kind=Kind.RED_TEAM, intent="x", images=["a.png"], turns=turns)
    shown = shown_first(seed)
    assert shown.images == ["a.png", "b.png"] and shown.all_images == seed.all_images
    played = Dialogue.begin(shown)
    played.turns = [Turn(user="u", assistant="v")]
    assert exchanged(played, FORMAT).images_by_turn() == [["a.png", "b.png"]]


def test_the_seat_asks_with_goal_and_picture_before_it_and_keeps_the_exact_tokens(seat) -> None:
    user, policy = seat
    played = Dialogue(id="d", kind=Kind.RED_TEAM, intent="operate it", images=["a.png"])
    for answer in ("<answer>it is red.</answer>", "<answer>no.</answer>", "<answer>why?</answer>"):
        said = asyncio.run(user.speak(played, Turn(user="script")))
        played.turns.append(Turn(user=said.text, assistant=answer))
    assert [turn.user for turn in played.turns] == ["question 1?", "question 2?", NOTHING]
    assert SYSTEM in policy.read[0] and goal_of("operate it") in policy.read[0]
    assert "<|image_pad|>" in policy.read[0], "the picture is before the first question"
    assert visible_answer(played.turns[0].assistant or "", FORMAT) in policy.read[1]
    tokens = user.transcript(played)
    assert tokens is not None and trained(tokens) == ["question 1?", "question 2?", ""]
    assert len(tokens.ends) == 3 and sum(tokens.logprobs) == -0.5 * sum(tokens.mask)
