"""A dialogue as chat messages. Every export format takes its text from here.

Other trainers build prompts from text, where `<|im_end|>` in a turn would be a special token and `<image>` a
picture. Markers in a turn are therefore split, as `Transcript` splits them (docs/explanation/method.md, "What
the published code gets wrong", 6).
"""

from __future__ import annotations

from safer_steer.dialogue import Seed
from safer_steer.prompts.markers import split_markers

PLACEHOLDER = "<image>"
"""Marks a picture in the text that LLaMA-Factory and verl read."""


def plain(text: str) -> str:
    """Text of a turn as the student tokenizes it: trimmed, with markers split."""
    return split_markers(text).strip()


def messages(seed: Seed, system: str, placeholder: str = "") -> list[dict[str, str]]:
    """`{"role", "content"}` of the system message, if any, and of the turns.

    Args:
        seed: a dialogue, or a script. A script has no answers, so only its user turns are returned.
        placeholder: inserted once per picture before the text of the user turn that shows it; "" if the
            reader places pictures itself.
    """
    said = [{"role": "system", "content": system}] if system else []
    for turn, images in zip(seed.turns, seed.images_by_turn(), strict=True):
        said.append({"role": "user", "content": placeholder * len(images) + plain(turn.user)})
        if turn.assistant is not None:
            said.append({"role": "assistant", "content": plain(turn.assistant)})
    return said


def prompt(seed: Seed, system: str, placeholder: str = "") -> list[dict[str, str]]:
    """The policy's first prompt: the system message, if any, and the script's first turn."""
    first = seed.model_copy(update={"turns": [seed.turns[0].model_copy(update={"assistant": None})]})
    return messages(first, system, placeholder=placeholder)
