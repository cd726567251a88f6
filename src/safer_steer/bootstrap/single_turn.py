"""SFT of the ablation "training on single turns": as many assistant tokens in single turns as in dialogues.

The blue expert answers the original questions (`assembly/questions.py`), the answers are filtered as all
others are, and the set is taken again and again until the assistant has said as many tokens in it as in the
multi-turn set.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

FOLDER = "single_turn"
"""Where the questions' dialogues stand, below `bootstrap/`."""
MATCHED = "single_turn.json"
"""What was matched, in `sft/`."""


def matched(tokens: Sequence[int], wanted: int, seed: int) -> list[int]:
    """Which single-turn dialogues are trained on, by index: in a seeded order, from its beginning again in
    further passes.

    Args:
        tokens: assistant tokens of each dialogue there is, at least 1 each.
        wanted: assistant tokens of the multi-turn set; the sum over the result comes as near to it as whole
            dialogues in that order allow.
    """
    order = list(range(len(tokens)))
    random.Random(f"single turn sft {seed}").shuffle(order)
    taken: list[int] = []
    total = 0
    while True:
        following = order[len(taken) % len(order)]
        if taken and total + tokens[following] / 2 > wanted:
            return taken
        taken.append(following)
        total += tokens[following]


def facts(taken: Sequence[int], tokens: Sequence[int], multi_turn: Sequence[int]) -> dict[str, Any]:
    """What was matched: dialogues and assistant tokens of the single-turn set as trained, and of the
    multi-turn set (`multi_turn`, by dialogue)."""
    single = {
        "dialogues": len(taken),
        "distinct": len(set(taken)),
        "passes": round(len(taken) / len(tokens), 2),
        "assistant_tokens": sum(tokens[index] for index in taken),
    }
    return {
        "single_turn": single,
        "multi_turn": {"dialogues": len(multi_turn), "assistant_tokens": sum(multi_turn)},
    }


def in_words(found: dict[str, Any]) -> str:
    """`facts` on one line."""
    single, multi = found["single_turn"], found["multi_turn"]
    return (
        f"single turns: {single['dialogues']:,} dialogues ({single['distinct']:,} distinct, {single['passes']:g} passes) with"
        f" {single['assistant_tokens']:,} assistant tokens, for {multi['assistant_tokens']:,} in {multi['dialogues']:,} dialogues of several turns"
    )
