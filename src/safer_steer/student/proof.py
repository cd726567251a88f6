"""Proves on probe dialogues that a renderer's pieces are what the chat template renders in one go.

Compared are ids, token-aligned inputs and picture inputs, with pictures in the first, a later, every and no
user turn, and that an answer stands in the past as it was sampled. Some templates cut an answer only where it
holds the end of a reasoning block. A model that has a token for that end can sample one, so its answers are
probed with such a block too. A model without the token was not trained to reason so, and is not refused for
its template's sake.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from safer_steer.errors import UserError
from safer_steer.student.renderer import Renderer
from safer_steer.student.transcript import Transcript, model_inputs

USERS = ["What is it?", "Look again.", "And why?"]
ANSWERS = ["It is red.", "<thinking>Is it?</thinking><answer>No. Red.</answer>"]
Shown = list[list[Image.Image]]
"""The pictures of each user turn."""


_OTHERWISE = (
    "its chat template renders past answers otherwise than they were sampled (it drops reasoning, for"
    " instance); give one that keeps them in student.chat_template: FILE"
)


def load_renderer(processor: Any, system: str) -> Renderer:
    """Make and prove the renderer for a processor. `system` is the system message's text, empty for none.

    Raises:
        UserError: the chat template cannot render a dialogue, or renders it otherwise than the renderer.
    """
    renderer = Renderer(processor, system)
    tall, wide = Image.new("RGB", (84, 112), "red"), Image.new("RGB", (112, 56), "blue")
    _prove(renderer, "a dialogue without pictures", [[], [], []])
    _prove(renderer, "a dialogue with a picture", [[tall], [], []])
    renderer.later_pictures = takes_later_pictures(renderer)
    if renderer.later_pictures:
        _prove(renderer, "a dialogue with a picture in a later turn", [[], [wide], []])
        _prove(renderer, "a dialogue with pictures in every turn", [[tall, wide], [wide], [tall]])
    for block in sorted(renderer.blocks()):
        thought = f"<{block}>Is it?</{block}>No. Red."
        if not _keeps_answers(renderer, [USERS[0], thought, USERS[1], thought, USERS[2]], []):
            raise renderer.refused(_OTHERWISE)
    return renderer


def takes_later_pictures(renderer: Renderer) -> bool:
    """Whether the template writes pictures in user turns after the first."""
    talk = [USERS[0], ANSWERS[0], USERS[1]]
    try:
        seeing = renderer.rendered(talk, [[], [Image.new("RGB", (84, 112))]])
    except Exception:  # templates raise errors of their own, processors of many kinds
        return False
    return bool(seeing["input_ids"].shape[1] > renderer.rendered(talk)["input_ids"].shape[1])


def _prove(renderer: Renderer, dialogue: str, shown: Shown) -> None:
    """Raises `UserError` unless pieces and whole agree for this dialogue."""
    talk = [USERS[0], ANSWERS[0], USERS[1], ANSWERS[1], USERS[2]]
    try:
        whole = renderer.rendered(talk, shown)
        ours = _in_pieces(renderer, shown)
    except UserError:
        raise
    except Exception as error:  # as above
        raise renderer.cannot_render(dialogue, error) from None
    if not _keeps_answers(renderer, talk, shown):
        raise renderer.refused(_OTHERWISE)
    if whole["input_ids"][0].tolist() != ours["input_ids"][0].tolist():
        raise renderer.refused(
            f"its chat template renders {dialogue} otherwise in one go than turn by turn;"
            " give another one in student.chat_template: FILE"
        )
    for name, tensor in ours.items():
        if name not in whole or not torch.equal(whole[name], tensor):
            raise renderer.refused(
                f"its processor makes another {name} of {dialogue} in one go than turn by turn;"
                " choose another model"
            )


def _in_pieces(renderer: Renderer, shown: Shown) -> dict[str, torch.Tensor]:
    """The probe dialogue as the renderer writes it."""
    transcript = Transcript(renderer)
    for number, user in enumerate(USERS):
        transcript.add_user(user, shown[number])
        if number < len(ANSWERS):
            answer = [*renderer.plain(ANSWERS[number]), renderer.end]
            transcript.add_assistant(answer, [0.0] * len(answer))
    return model_inputs([transcript], "right")


def _keeps_answers(renderer: Renderer, talk: list[str], shown: Shown) -> bool:
    """Whether the template lets each answer stand, as text, where it was sampled."""
    for place in (1, 3):
        asked, later = renderer.render(talk[:place], shown), renderer.render(talk[: place + 2], shown)
        if not later.startswith(asked + renderer.lead + talk[place]):
            return False
    return True
