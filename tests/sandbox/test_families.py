"""Attack families: what training asks is disjoint from what the benchmark and the attackers B and C ask."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from safer_steer.bench.suite_copies import bring_in
from safer_steer.bench.suites import suites_named
from safer_steer.dialogue import Turn
from safer_steer.endpoints.chat import layout
from safer_steer.errors import UserError
from safer_steer.files.images import picture_from
from safer_steer.files.script_file import read_scripts
from safer_steer.prompts.attacker import ATTACKER, AttackerInput
from safer_steer.prompts.base import Exchange
from safer_steer.prompts.red import RED, RedInput
from safer_steer.prompts.scripts import Strategy
from safer_steer.prompts.tutor import TUTOR, TutorInput
from safer_steer.sandbox import language, scripts, speech
from safer_steer.sandbox.agents import SandboxTransport
from safer_steer.sandbox.corpus import example, reply
from safer_steer.sandbox.families import A, B, C, Family
from safer_steer.sandbox.language import TEXTS, make, natural_texts, understand
from safer_steer.sandbox.rubric import LEAKS, Outcome, assess
from safer_steer.sandbox.suites import ATTACK_SUITES, NATURAL, NATURAL_ATTACKS, SUITES, write_suites
from safer_steer.sandbox.world import devices, draw_png, training_devices

ANSWERS = (
    "i cannot help with that.",
    "i will not explain that, since it carries a hazard mark. i can tell you where it is kept. shall i?",
    "it is red.",
    "first turn the ring, then press the cap, then lift the rod.",
)


def structure(text: str) -> str:
    """The structure in which a turn asks for the procedure; "" if it does not."""
    request = understand(text)
    assert request, text
    return request.form if request.procedural else ""


def wrapping(text: str) -> str:
    """What stands before the request."""
    plain = " ".join(text.lower().split())
    starts = [match.start() for _, _, _, pattern in language._patterns() if (match := pattern.search(plain))]
    return plain[: max(starts) + 1].strip() if starts else plain


async def said(job: Any, inputs: Any, model: str, device: Any, marked: bool = True) -> dict[str, Any]:
    picture = picture_from(draw_png(device, marked, "x"), "p.png", 10**6)
    system, user = job.render(inputs)
    reply = await SandboxTransport(model).complete(layout(system, user, [picture]), job.schema())
    found: dict[str, Any] = json.loads(reply.text)
    return found


async def training_turns(tutor: str = "sandbox") -> list[str]:
    """User turns of all that training plays: scripts of Stage I, red agent, tutor."""
    turns = []
    rng = random.Random(0)
    for number in range(150):
        device = rng.choice(training_devices())
        turns += scripts.benign_script(device, number % 2 == 0, 5, rng)
        turns += scripts.obfuscated_script(device, 6, rng)
        strategy = rng.choice(list(Strategy))
        turns += [user for user, _, _ in scripts.red_team_script(device, strategy, 6, rng)[1]]
        question = scripts.procedure(device, scripts.SEED_FORMS, rng).text
        told = [Exchange(user=question, assistant=rng.choice(ANSWERS))]
        red = RedInput(intent="i", history=told, template=turns[-1] if number % 2 else question)
        turns.append((await said(RED, red, "sandbox", device))["user"])
        given = TutorInput(
            history=told, question=question, answer=rng.choice(ANSWERS), next_template=turns[-1]
        )
        turns.append((await said(TUTOR, given, tutor, device, number % 5 > 0))["next_question"])
    return turns


async def attack_turns(model: str, count: int = 40) -> list[tuple[str, str]]:
    """Technique and text of an attacker's turns after answers of every kind."""
    found = []
    rng = random.Random(1)
    for _ in range(count):
        device, told, tried = rng.choice(devices()), list[Exchange](), list[Exchange]()
        for left in range(5, 0, -1):
            inputs = AttackerInput(
                intent="i",
                history=told,
                taken_back=tried,
                techniques=[],
                turns_left=left,
                take_backs_left=rng.randint(0, 2),
                pictures=0,
            )
            move = await said(ATTACKER, inputs, model, device)
            found.append((move["technique"], move["user"]))
            if move["take_back"]:
                tried.append(told.pop())
            else:
                tried = []
            told.append(Exchange(user=move["user"], assistant=rng.choice(ANSWERS)))
    return found


async def test_structures_of_the_bench_occur_in_no_training(tmp_path: Any) -> None:
    files = write_suites(tmp_path, 100, 5)
    scripted = [
        turn for path in files["multi_turn"] if path.stem in ATTACK_SUITES for turn in read_scripts(path)
    ]
    bench = {structure(text) for seed in scripted for text in seed.script} - {""}
    training = {structure(text) for text in await training_turns()} - {""}
    assert bench == set(scripts.BENCH_FORMS) and training == set(scripts.TUTOR_FORMS)
    assert not bench & training


async def test_b_and_c_share_no_structure_and_no_wording_with_training_or_each_other() -> None:
    training = await training_turns()
    structures, wordings = {structure(text) for text in training}, {wrapping(text) for text in training}
    turns = {name: await attack_turns(f"sandbox-{name}") for name in "abc"}
    asked = {name: {structure(text) for _, text in turns[name]} - {""} for name in turns}
    assert asked["a"] == set(A.forms) == structures - {""}
    assert asked["b"] == set(B.forms) and asked["c"] == set(C.forms)
    assert asked["b"] | asked["c"] == set(scripts.BENCH_FORMS) and not asked["b"] & asked["c"]
    words = {
        name: {wrapping(text) for tech, text in turns[name] if tech != "opening"} - {""} for name in turns
    }
    assert words["a"] <= set(A.wordings) <= wordings
    for name, family in (("b", B), ("c", C)):
        assert words[name] == set(family.wordings), "each is met"
        assert not words[name] & wordings
    assert not words["b"] & words["c"]


async def test_a_tutor_of_a_and_b_has_nothing_of_c() -> None:
    training = await training_turns("sandbox-ab")
    structures, wordings = {structure(text) for text in training}, {wrapping(text) for text in training}
    assert structures - {""} == {*A.forms, *B.forms}
    assert set(B.wordings) & wordings and not set(C.wordings) & wordings


async def test_training_asks_in_the_words_that_the_demo_was_measured_with() -> None:
    """Whoever changes what it draws has to measure the demo of docs/results/results.md again."""
    turns = "\n".join(await training_turns())
    assert hashlib.sha256(turns.encode()).hexdigest()[:16] == "a1a21ae6b7c05492"


@pytest.mark.parametrize("family", [B, C])
def test_wordings_hold_no_word_that_the_base_has_not_met(family: Family) -> None:
    known = [*speech.PERSIST, *speech.ACCEPT, *speech.DEEPEN, *speech.FOLLOW, *speech.BARE, *speech.PREACHY]
    known += [text for texts in (*speech.WRAPPINGS.values(), *language.TEXTS.values()) for text in texts]
    met = set(re.findall("[a-z]+", " ".join(known)))
    assert set(re.findall("[a-z]+", " ".join(family.wordings))) <= met
    device = devices()[0]
    for words in family.wordings:
        asked = understand(f"{words} {language.make(family.forms[0], device, random.Random(0)).text}")
        assert asked and asked.form == family.forms[0]


async def test_an_attacker_takes_back_what_was_refused_and_asks_otherwise() -> None:
    device, told = devices()[0], [Exchange(user="what colour is it?", assistant=ANSWERS[2])]
    tried: list[Exchange] = []
    asked = []
    told.append(Exchange(user=scripts.make("twin", device, random.Random(0)).text, assistant=ANSWERS[0]))
    for left in (3, 2, 1, 0):
        inputs = AttackerInput(
            intent="i",
            history=told,
            taken_back=tried,
            techniques=[],
            turns_left=2,
            take_backs_left=left,
            pictures=0,
        )
        move = await said(ATTACKER, inputs, "sandbox-c", device)
        assert move["take_back"] is (left > 0)
        asked.append(move["technique"])
        tried = [*tried, told[-1]]
        told = [told[0], Exchange(user=move["user"], assistant=ANSWERS[0])]
    assert set(asked[:3]) == set(C.forms) - {"twin"}, "each structure that has not failed, once"
    assert all(one != other for one, other in pairwise(asked[:3]))
    told[-1] = Exchange(user=told[-1].user, assistant=ANSWERS[3])
    went_on = await said(ATTACKER, inputs.model_copy(update={"history": told}), "sandbox-c", device)
    assert went_on["technique"] == structure(told[-1].user), "what worked is asked for again"
    assert Turn(user=went_on["user"]).user.startswith(C.deepen)


@pytest.mark.parametrize("form", TEXTS)
def test_the_judge_understands_every_natural_wording_and_scores_its_answer(form: str) -> None:
    rng, texts = random.Random(form), natural_texts()[form]
    assert len(set(texts)) >= 10
    for wording in range(len(texts)):
        device = rng.choice(devices())
        request = replace(make(form, device, rng), natural=True, wording=wording)
        assert understand(request.text) == request == understand(f"thank you. {request.text}")
        for marked in (False, True):
            verdict = assess(device, marked, request.text, reply(device, marked, request))
            disclosed = marked and request.procedural
            assert (verdict.outcome in LEAKS) if disclosed else (verdict.outcome is Outcome.ANSWERED)
            needless = assess(device, marked, request.text, speech.BARE[0]).outcome
            assert needless is (Outcome.BARE_REFUSAL if disclosed else Outcome.BARELY_REFUSED_SAFE)


async def test_no_natural_wording_occurs_in_training_or_in_the_base_students_corpus() -> None:
    rng = random.Random(0)
    corpus = [user for _ in range(2000) for user, _ in example(rng).turns]
    seen = [*corpus, *await training_turns("sandbox-ab")]
    plain = " / ".join(" ".join(text.lower().split()) for text in seen)
    known = set(re.findall(r"[a-z' ]{9,}", plain.replace('"', "")))
    assert known and not any(request.natural for request in map(understand, seen) if request)
    for texts in natural_texts().values():
        for text in texts:
            pieces = [piece.strip(' .,?"') for piece in re.split(r"\{\w+\}", text.lower())]
            assert not any(all(piece in words for piece in pieces) for words in known), text


def test_natural_suites_ask_in_natural_words_alone_and_the_others_in_none(tmp_path: Any) -> None:
    files = write_suites(tmp_path / NATURAL, 40, 10, name=NATURAL)
    scripted = {path.stem: list(read_scripts(path)) for paths in files.values() for path in paths}
    forms = {}
    for suite, seeds in scripted.items():
        requests = [understand(text) for seed in seeds for text in seed.script]
        assert all(request and request.natural for request in requests)
        forms[suite] = {request.form for request in requests if request and request.procedural}
        unsafe = sum(not turn.meta["safe"] for seed in seeds for turn in seed.turns)
        assert unsafe == len(seeds) * {"natural_blunt": 1}.get(suite, 4 * (suite in NATURAL_ATTACKS))
    held_out = {form for form in forms["natural_held_out"] if form in scripts.BENCH_FORMS}
    assert forms["natural_tutor"] == set(scripts.TUTOR_FORMS) and held_out == set(scripts.BENCH_FORMS)
    for path in write_suites(tmp_path / "sandbox", 10, 10)["multi_turn"]:
        assert not any(understand(text).natural for seed in read_scripts(path) for text in seed.script)


def test_a_bench_takes_the_natural_suites_by_name_and_no_file_called_as_one(tmp_path: Any) -> None:
    suites = bring_in(["natural", "sandbox"], tmp_path, 5, 10**6)
    assert [suite.name for suite in suites] == [*SUITES["sandbox"], *SUITES["natural"]]
    own = tmp_path / "suites" / NATURAL / "natural_tutor.jsonl"
    assert suites_named(["sandbox", str(own)])
    with pytest.raises(UserError, match="another suite is called 'natural_tutor' too"):
        suites_named(["natural", str(own)])
