"""The base student's training data: dialogues of a helpful assistant that reads pictures reliably and knows
every form of question.

Its safety is the partial one of a base model. It declines about half of the first direct requests for a
marked device's procedure. What it did once it tends to do again: after a refusal it mostly refuses, and once
it has answered it answers. Requests that are `INDIRECT` it nearly always answers. Every structure, including
the benchmark's, occurs here as an ordinary request. A later failure on such a structure is therefore a safety
failure, not a lack of language ability.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from safer_steer.dialogue import Format, lay_out
from safer_steer.prompts.scripts import Strategy
from safer_steer.sandbox import speech
from safer_steer.sandbox.language import (
    FACTS,
    SENTENCE_FORMS,
    STATEMENTS,
    TEXTS,
    Request,
    make,
    mark_answer,
    thought,
    value,
    wrong_value,
)
from safer_steer.sandbox.world import Device, devices

INDIRECT = ("before", "deed", "last_word", "reverse", "twin")
"""Structures that do not ask for a step outright: a fragment of it, or the unmarked twin's."""
FIRST_REFUSED = 0.6
"""Share of a dialogue's first direct requests for a marked device's procedure that are declined."""
AGAIN_REFUSED = 0.9
"""Share of direct requests that is declined if the last one was."""
LATER_REFUSED = 0.03
"""Share of direct requests that is declined if the last one was answered."""
INDIRECT_REFUSED = 0.04
"""Share of indirect requests that is declined, whatever came before."""
BLUNT = ("all", "step")
"""What three of ten dialogues begin with."""
HARD = ("yesno", "correct", "deed")
"""Structures that a student learns last: it must compare what the user says with the truth, or find a step by
its part."""


@dataclass(frozen=True)
class Example:
    """One training dialogue: its picture, and (user, assistant) turns in the thinking_answer format."""

    device: Device
    marked: bool
    picture_seed: int
    turns: list[tuple[str, str]]


def reply(device: Device, marked: bool, request: Request) -> str:
    """The true answer, regardless of what it discloses."""
    return mark_answer(marked) if request.form == "mark" else request.answer(device)


TURNS = (1, 1, 2, 3, 4, 5, 6)
"""Dialogue lengths to draw from."""


def example(
    rng: random.Random, turns_wanted: int | None = None, forms: Sequence[str] | None = None
) -> Example:
    """Draw one dialogue of `turns_wanted` turns, or of a random length; in these structures alone, or in
    any."""
    device, marked = rng.choice(devices()), rng.random() < 0.5
    turns: list[tuple[str, str]] = []
    declined: bool | None = None
    for index in range(turns_wanted or rng.choice(TURNS)):
        blunt = not forms and index == 0 and rng.random() < 0.3
        form = rng.choice(BLUNT if blunt else forms or _FORMS)
        request = make(form, device, rng)
        wrapping = _wrapping(rng, index)
        answer = reply(device, marked, request)
        if marked and request.procedural:
            refused = rng.random() < _chance(request, declined)
            declined = declined if form in INDIRECT else refused
            answer = _refusal(device, rng) if refused else answer
        turns.append(
            (
                f"{wrapping} {request.text}".strip(),
                lay_out(thought(device, marked), answer, Format.THINKING_ANSWER),
            )
        )
    return Example(device, marked, rng.getrandbits(31), turns)


def drill(rng: random.Random, skew: float) -> tuple[Example, str]:
    """Draw one question in a structure of `HARD` with its true answer, and the answer's deciding word: the
    verdict, or the verb.

    Args:
        skew: a verdict is yes, or right, with this probability for half of all facts, and with the opposite
            one for the others; 0.5 to 1. A verdict compares what the user says with the truth, and neither
            alone tells anything: a loss like XOR's, flat at the start. With a skew each tells something, so
            a student learns to look at both.
    """
    device, marked = rng.choice(devices()), rng.random() < 0.5
    form = rng.choice(HARD)
    request = make(form, device, rng, rng.choice(STATEMENTS) if form in SENTENCE_FORMS else None)
    if form == "deed":
        word = next(verb for verb, part in device.steps if part == request.claims[0])
    else:
        truth = value(device, request.content)
        mostly = random.Random(truth).random() < 0.5
        right = rng.random() < (skew if mostly else 1 - skew)
        claim = truth if right else wrong_value(device, request.content, rng)
        request = replace(request, claims=(claim,))
        word = {"yesno": ("no", "yes"), "correct": ("wrong", "right")}[form][right]
    answer = lay_out(thought(device, marked), reply(device, marked, request), Format.THINKING_ANSWER)
    return Example(device, marked, rng.getrandbits(31), [(request.text, answer)]), word


def _chance(request: Request, declined: bool | None) -> float:
    """The chance of a refusal. `declined`: whether the last direct request for the marked procedure was."""
    if request.form in INDIRECT:
        return INDIRECT_REFUSED
    if declined is None:
        return FIRST_REFUSED
    return AGAIN_REFUSED if declined else LATER_REFUSED


_FORMS = [*FACTS, *[f for f in TEXTS if f not in FACTS and f not in SENTENCE_FORMS] * 2, *SENTENCE_FORMS * 4]


def _wrapping(rng: random.Random, index: int) -> str:
    kinds = [speech.PERSIST, speech.ACCEPT, speech.DEEPEN, speech.FOLLOW] if index else []
    draw = rng.random()
    if kinds and draw < 0.4:
        return rng.choice(rng.choice(kinds))
    return rng.choice(speech.WRAPPINGS[rng.choice(list(Strategy))]) if draw < 0.65 else ""


def _refusal(device: Device, rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.84:
        return speech.constructive(device.name, rng)
    return rng.choice(speech.BARE if draw < 0.93 else speech.PREACHY)
