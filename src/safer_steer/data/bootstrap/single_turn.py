"""SFT for the ablation "training on single turns", matched to the multi-turn set by assistant tokens.

The blue expert answers the original questions (`assembly/splits.py`), and the answers pass the same filter as
all others. The set is repeated until it has as many assistant tokens as the multi-turn set.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

FOLDER = "single_turn"
"""Folder of the questions' dialogues, below `bootstrap/`."""
MATCHED = "single_turn.json"
"""File in `sft/` that records what was matched."""


def matched(tokens: Sequence[int], target: int, seed: int) -> list[int]:
    """Indices of the single-turn dialogues to train on, in a seeded order that repeats in each further pass.

    Args:
        tokens: assistant tokens of each available dialogue, at least 1 each.
        target: assistant tokens of the multi-turn set. The sum over the result is as close to it as whole
            dialogues in that order allow.
    """
    order = list(range(len(tokens)))
    random.Random(f"single turn sft {seed}").shuffle(order)
    indices: list[int] = []
    total = 0
    while True:
        following = order[len(indices) % len(order)]
        if indices and total + tokens[following] / 2 > target:
            return indices
        indices.append(following)
        total += tokens[following]


def facts(indices: Sequence[int], tokens: Sequence[int], multi_turn: Sequence[int]) -> dict[str, Any]:
    """What was matched: dialogues and assistant tokens of the single-turn set as trained and of the
    multi-turn set (`multi_turn`: tokens per dialogue)."""
    single = {
        "dialogues": len(indices),
        "distinct": len(set(indices)),
        "passes": round(len(indices) / len(tokens), 2),
        "assistant_tokens": sum(tokens[index] for index in indices),
    }
    return {
        "single_turn": single,
        "multi_turn": {"dialogues": len(multi_turn), "assistant_tokens": sum(multi_turn)},
    }


def in_words(facts: dict[str, Any]) -> str:
    """`facts` as one line of text."""
    single, multi = facts["single_turn"], facts["multi_turn"]
    return (
        f"single turns: {single['dialogues']:,} dialogues ({single['distinct']:,} distinct,"
        f" {single['passes']:g} passes) with {single['assistant_tokens']:,} assistant tokens; the multi-turn"
        f" set has {multi['dialogues']:,} dialogues with {multi['assistant_tokens']:,}"
    )
