"""Proves on probe dialogues that a renderer's pieces are what the chat template renders in one go.

Compared are ids, token-aligned inputs and picture inputs, with pictures in the first, a later, every and no
user turn, and that an answer stands in the past as it was sampled. Some templates cut an answer only where it
holds a reasoning block, `<think>...</think>` or `<|channel>...<channel|>`. A model that has tokens for such
marks can sample them, so its answers are probed with every pair of those that its template names. A model
without these tokens was not trained to reason so, and is not refused for its template's sake.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import torch
from PIL import Image

from safer_steer.errors import UserError
from safer_steer.student.renderer import ANOTHER, QUESTION, Renderer, reason_of
from safer_steer.student.transcript import Transcript, model_inputs

USERS = ["What is it?", "Look again.", "And why?"]
ANSWERS = ["It is red.", "<thinking>Is it?</thinking><answer>No. Red.</answer>"]
Pictures = list[list[Image.Image]]
"""The pictures of each user turn."""


_OTHERWISE = (
    "its chat template renders past answers otherwise than they were sampled (it drops {cut}, for instance);"
    " give one that keeps them in student.chat_template: FILE"
)


def load_renderer(processor: Any, system: str) -> Renderer:
    """Make and prove the renderer for a processor. `system` is the system message's text, empty for none.
    Raises `UserError` if the chat template cannot render a dialogue, or renders it otherwise than the
    renderer."""
    renderer = Renderer(processor, system)
    tall, wide = Image.new("RGB", (84, 112), "red"), Image.new("RGB", (112, 56), "blue")
    _prove(renderer, "a dialogue without pictures", [[], [], []])
    _prove(renderer, "a dialogue with a picture", [[tall], [], []])
    renderer.later_pictures = takes_later_pictures(renderer)
    if renderer.later_pictures:
        _prove(renderer, "a dialogue with a picture in a later turn", [[], [wide], []])
        _prove(renderer, "a dialogue with pictures in every turn", [[tall, wide], [wide], [tall]])
    if cut := _cut(renderer):
        raise renderer.refused(_OTHERWISE.format(cut=cut))
    return renderer


def _cut(renderer: Renderer) -> str:
    """The marks by which the template drops or changes a past answer, for a message; "" if it keeps all.

    All marks, twice over, have every pair in its order. Only if that answer is changed are the pairs tried
    one by one.
    """
    marks = renderer.marks()
    every = [mark for _ in range(2) for mark in marks]
    if not marks or _keeps_marked(renderer, every, if_it_fails=False):
        return ""
    if alone := [mark for mark in marks if not _keeps_marked(renderer, [mark])]:
        return " and ".join(alone)
    pairs = (f"{a}...{b}" for a, b in permutations(marks, 2) if not _keeps_marked(renderer, [a, b]))
    return next(pairs, "" if _keeps_marked(renderer, every) else " or ".join(marks))


def _keeps_marked(renderer: Renderer, marks: Sequence[str], if_it_fails: bool = True) -> bool:
    """Whether an answer with these marks, in this order, stands as it was sampled. A template that fails on
    such an answer stops the run that samples one, so nothing is trained wrongly."""
    answer = "".join(f"{mark}Is it?" for mark in marks) + "No. Red."
    try:
        return _keeps_answers(renderer, [USERS[0], answer, USERS[1], answer, USERS[2]], [])
    except Exception:  # templates raise errors of their own
        return if_it_fails


def takes_later_pictures(renderer: Renderer) -> bool:
    """Whether the template writes pictures in user turns after the first."""
    talk = [USERS[0], ANSWERS[0], USERS[1]]
    try:
        seeing = renderer.rendered(talk, [[], [Image.new("RGB", (84, 112))]])
    except Exception:  # templates raise errors of their own, processors of many kinds
        return False
    return bool(seeing["input_ids"].shape[1] > renderer.rendered(talk)["input_ids"].shape[1])


def _prove(renderer: Renderer, dialogue: str, pictures: Pictures) -> None:
    """Raises `UserError` unless pieces and whole agree for this dialogue."""
    talk = [USERS[0], ANSWERS[0], USERS[1], ANSWERS[1], USERS[2]]
    try:
        stands = _keeps_answers(renderer, talk, pictures)
    except Exception as error:  # as above
        raise renderer.cannot_render(dialogue, error) from None
    if not stands:
        raise renderer.refused(_OTHERWISE.format(cut="reasoning"))
    try:
        whole = renderer.rendered(talk, pictures)
        transcript = Transcript.of(renderer, talk, pictures)
    except UserError:
        raise
    except Exception as error:  # as above
        raise renderer.refused(
            f"its processor cannot take {dialogue} ({reason_of(error)}); choose another model"
        ) from None
    try:
        ours = model_inputs([transcript], "right")
    except (KeyError, ValueError, RuntimeError):  # they do not join
        raise renderer.refused(
            "its processor gives some pictures other inputs than others; choose another model"
        ) from None
    if whole["input_ids"][0].tolist() != ours["input_ids"][0].tolist():
        raise renderer.refused(_who_differs(renderer, dialogue, talk, pictures))
    for name, tensor in ours.items():
        if name not in whole or not torch.equal(whole[name], tensor):
            raise renderer.refused(
                f"its processor makes another {name} of {dialogue} in one go than turn by turn;"
                " choose another model"
            )


def _who_differs(renderer: Renderer, dialogue: str, talk: list[str], pictures: Pictures) -> str:
    """Whether the template writes other text turn by turn, or the processor or its tokenizer makes other ids
    of the same."""
    text = renderer.render(talk[:1], pictures)
    for number, user in enumerate(USERS[1:], 1):
        answer = renderer.lead + ANSWERS[number - 1]
        text += answer + renderer.bridge(user, pictures[number])
    if text != renderer.render(talk, pictures):
        return f"its chat template renders {dialogue} otherwise in one go than turn by turn; {ANOTHER}"
    bridge = renderer.user_turn(QUESTION, [], first=False).ids
    plain = renderer.tokenizer(renderer.bridge(QUESTION, []), add_special_tokens=False)["input_ids"]
    if any(pictures):
        why = "it numbers them, or gives a picture other tokens where a dialogue shows several"
    elif bridge[0] != renderer.end:
        why = "it begins every turn with the token that begins a text"
    elif bridge != plain:
        why = "it adds tokens to every turn"
    else:
        return (
            "its tokenizer joins what its chat template writes before an answer with the answer, so the"
            f" tokens sampled would be others in the next turn; {ANOTHER}"
        )
    return (
        f"its processor writes {dialogue} otherwise in one go than turn by turn: {why}; its chat template is"
        " not the cause; choose another model"
    )


def _keeps_answers(renderer: Renderer, talk: list[str], pictures: Pictures) -> bool:
    """Whether the template lets each answer stand, as text, where it was sampled."""
    for place in (1, 3):
        before, later = renderer.render(talk[:place], pictures), renderer.render(talk[: place + 2], pictures)
        if not later.startswith(before + renderer.lead + talk[place]):
            return False
    return True
