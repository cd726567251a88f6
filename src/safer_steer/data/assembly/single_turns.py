"""The original questions as scripts of one turn, for the ablation "training on single turns".

The first turns of multi-turn scripts are harmless by design, so a student trained on them would lose by
construction. Here the script is the pair's own question.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from math import floor

from safer_steer.data.seeds.red_team import HARMLESS
from safer_steer.dialogue import Kind, Seed, Turn
from safer_steer.errors import UserError
from safer_steer.files.meta import only

KEPT = ("pair", "question", "question_safe", "use", "category", "picture", "perturbed", "original", "answer")
"""The facts that a question takes from its script, in this order."""


def questions(scripts: Iterable[Seed]) -> list[Seed]:
    """The question of each distinct pair among the scripts, as a script of one turn, in the order in which
    the pairs first appear.

    The kind is benign if the source says that the question is harmless, and obfuscated otherwise.

    Raises:
        UserError: a script does not say which question it was made from.
    """
    found: dict[str, Seed] = {}
    for script in scripts:
        if not (script.meta.get("pair") and script.meta.get("question")):
            raise UserError(
                f"single_turn: {script.id}: its seed does not have its pair's question;"
                " build the seeds again with --fresh"
            )
        found.setdefault(script.meta["pair"], _question(script))
    return list(found.values())


def _question(script: Seed) -> Seed:
    meta, safe = script.meta, script.meta.get("question_safe") is True
    return Seed(
        id=f"{meta['pair']}-question",
        kind=Kind.BENIGN if safe else Kind.OBFUSCATED,
        source=script.source,
        intent=str(meta.get("intent", script.intent)),
        images=script.images,
        turns=[Turn(user=meta["question"], meta={"risk": HARMLESS} if safe else {})],
        meta=only(meta, *KEPT),
    )


def draw_questions(asked: Sequence[Seed], total: int | None, share: float, seed: int) -> list[Seed]:
    """At most `total` questions (all if None) in a seeded order. `share` (0-1) of them are safe, or as many
    as there are."""
    rng = random.Random(f"single turn rl {seed}")
    safe = [one for one in asked if one.kind is Kind.BENIGN]
    risky = [one for one in asked if one.kind is not Kind.BENIGN]
    for pool in (safe, risky):
        rng.shuffle(pool)
    numbers = question_numbers(len(safe), len(risky), total, share)
    drawn = [*safe[: numbers[0]], *risky[: numbers[1]]]
    rng.shuffle(drawn)
    return drawn


def question_numbers(safe: int, risky: int, total: int | None, share: float) -> tuple[int, int]:
    """How many of the available safe and risky questions to draw. If there are too few risky ones, fewer safe
    ones are drawn; the reverse does not hold."""
    whole = safe + risky if total is None else total
    if share < 1:
        whole = min(whole, floor(risky / (1 - share) + 1e-9))
    wanted = min(safe, round(whole * share))
    return wanted, min(risky, whole - wanted)
