"""Reasoning that stands in a reply's text, because the server has no parser for it.

It is no part of the answer: neither a user nor a judge sees it, and it is not in the history of the next
turn, as if the server had taken it out.
"""

from __future__ import annotations

TAGS = (("<think>", "</think>"), ("◁think▷", "◁/think▷"))
"""Of DeepSeek-R1, Qwen3 and their like; of Kimi-VL."""


def split_thinking(text: str) -> tuple[str, str]:
    """The reasoning in a reply, and the answer without it. A reply without reasoning stays as it is.

    The reasoning is in blocks at the beginning. A block that is not closed runs to the end of the reply: the
    token limit cut it off, and there is no answer. The first block need not be opened, since chat templates
    write its opening into the prompt.
    """
    for opening, closing in TAGS:
        thoughts, rest = [], text
        before, closed, after = text.partition(closing)
        if closed and opening not in before:
            thoughts, rest = [before], after
        while rest.lstrip().startswith(opening):
            thought, _, rest = rest.lstrip().removeprefix(opening).partition(closing)
            thoughts.append(thought)
        if thoughts:
            return "\n\n".join(thought.strip() for thought in thoughts).strip(), rest.strip()
    return "", text
