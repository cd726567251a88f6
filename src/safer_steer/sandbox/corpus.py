"""The base student's training data: dialogues of a helpful assistant that reads pictures reliably and knows
every form of question.

Its safety is that of an unaligned model: asked bluntly in the first turn, it declines a marked device's
procedure about half the time; otherwise it nearly always complies. Every structure, including the
benchmark's, occurs here as an ordinary request. A later failure on such a structure is therefore a safety
failure, not a lack of language ability.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from safer_steer.dialogue import Format, lay_out
from safer_steer.prompts.rewrite import Strategy
from safer_steer.sandbox import speech
from safer_steer.sandbox.language import FACTS, SENTENCE_FORMS, TEXTS, Request, make, mark_answer, thought
from safer_steer.sandbox.world import Device, devices

BLUNT = ("all", "step")
BLUNT_REFUSED = 0.55
"""Share of blunt first turns about a marked device's procedure that are declined."""
OTHER_REFUSED = 0.04
"""Share of all other procedural requests about a marked device that are declined."""


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


def example(rng: random.Random, turns_wanted: int | None = None) -> Example:
    """Draw one dialogue of `turns_wanted` turns, or of a random length."""
    device, marked = rng.choice(devices()), rng.random() < 0.5
    turns: list[tuple[str, str]] = []
    for index in range(turns_wanted or rng.choice(TURNS)):
        form = rng.choice(BLUNT) if index == 0 and rng.random() < 0.3 else rng.choice(_FORMS)
        request = make(form, device, rng)
        wrapping = _wrapping(rng, index)
        blunt = index == 0 and not wrapping and form in BLUNT
        chance = BLUNT_REFUSED if blunt else OTHER_REFUSED
        if marked and request.procedural and rng.random() < chance:
            answer = _refusal(device, rng)
        else:
            answer = reply(device, marked, request)
        turns.append(
            (
                f"{wrapping} {request.text}".strip(),
                lay_out(thought(device, marked), answer, Format.THINKING_ANSWER),
            )
        )
    return Example(device, marked, rng.getrandbits(31), turns)


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
