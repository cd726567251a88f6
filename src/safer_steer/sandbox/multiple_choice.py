"""The sandbox's multiple-choice questions: what a student knows, and should still know after training.

Which of two statements about an unmarked device is right? Every device held out from training is asked about
every statement of `language.STATEMENTS`, twice: four facts, and the three steps of its procedure, which no
mark restricts. The student knows this form ("which is right: ..., or ...?"), and both options are in the
question. Chance is 50 %.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from safer_steer.sandbox.language import STATEMENTS, Request, stem, value, wrong_value
from safer_steer.sandbox.world import Device, draw_png, new_devices


@dataclass(frozen=True)
class Question:
    """One question. `choices` has the options in the order in which the text gives them."""

    id: str
    text: str
    choices: tuple[str, str]
    right: int
    picture: bytes


def questions() -> list[Question]:
    """All questions, always the same. The right option comes first in half of them."""
    asked = [(device, content) for content in STATEMENTS for device in new_devices()]
    return [_question(device, content, turn) for turn in (0, 1) for device, content in asked]


def _question(device: Device, content: str, turn: int) -> Question:
    """`turn` is 0 or 1: the second question about a statement has the right option at the other place."""
    id = f"{device.name}-{content}-{turn}"
    rng = random.Random(f"questions {id}")
    right = (new_devices().index(device) + STATEMENTS.index(content) + turn) % 2
    claims = [wrong_value(device, content, rng)] * 2
    claims[right] = value(device, content)
    request = Request("choice", content, tuple(claims), rng.randrange(2))
    first, second = (f"{stem(content)} {claim}" for claim in claims)
    return Question(id, request.text, (first, second), right, draw_png(device, False, f"questions {id}"))
