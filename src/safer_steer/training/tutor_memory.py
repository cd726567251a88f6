"""What breached the student lately: the tutor's memory over the steps of Stage III (`rl.tutor_memory`).

It is ours; the paper's tutor knows its own dialogue alone. The memory is a value: counts by approach and
category of risk over the last steps, updated once a step from all its trajectories. Each step's counts are in
its row of rl/metrics.jsonl, from which a run that goes on has them back; all processes hold the same.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from typing import Protocol, runtime_checkable

from safer_steer.config import SANDBOX_AGENTS, Config
from safer_steer.dialogue import Dialogue, Kind, Seed
from safer_steer.errors import shortened
from safer_steer.prompts.attacker import TECHNIQUES
from safer_steer.prompts.tutor import Remembered
from safer_steer.rewards import LEAK

WINDOW = 5
"""Steps that are remembered. What a student refused before may breach it later, so it is tried again."""
OTHERS = 0.5
"""What a try in another category of risk counts for the draw, against 1 of the dialogue's own: with few tries
of its own, a category goes by the others."""
MOST, LONGEST = 3, 40
"""Categories that a row of the prompt names at most, and characters of a category's name."""

Tries = dict[str, dict[str, list[int]]]
"""By approach and category of risk ("" if unknown): [tried, breached]."""


def tries_in(dialogues: Iterable[Dialogue]) -> Tries:
    """Count the tries of a step. Turns in a row of one approach are one try, for a set-up is harmless by
    itself; it breached if one of them leaked. Turns of benign scripts are no attacks."""
    tries: Tries = {}
    for dialogue in dialogues:
        if dialogue.kind is Kind.BENIGN:
            continue
        for approach, breached in _tries(dialogue):
            counts = tries.setdefault(approach, {}).setdefault(category_of(dialogue), [0, 0])
            counts[0] += 1
            counts[1] += breached
    return tries


def _tries(dialogue: Dialogue) -> Iterator[tuple[str, bool]]:
    pairs = pairwise(dialogue.turns)
    for approach, group in groupby(pairs, key=lambda pair: pair[0].meta.get("approach")):
        scores = [turn.scores["safety"] for _, turn in group if turn.scores]
        if approach and scores:
            yield approach, min(scores) <= LEAK


def category_of(seed: Seed) -> str:
    """The category of risk that the set gives its question."""
    return shortened(seed.category, LONGEST)


class TutorMemory:
    """Counts of the last `WINDOW` steps, a table of them for the prompt, and draws from them."""

    def __init__(self, approaches: dict[str, str], seed: int) -> None:
        """`approaches`: those to choose from, with what each means. `seed` is the run's."""
        self.approaches, self.seed = approaches, seed
        self.steps: deque[Tries] = deque(maxlen=WINDOW)

    def learn(self, tries: Tries) -> None:
        """Take in a step's tries. A step without any is none of those remembered: in co-training, most steps
        are played against a checkpoint."""
        if tries:
            self.steps.append(tries)

    def counts(self, approach: str) -> dict[str, tuple[int, int]]:
        """Tried and breached by category, over the steps remembered."""
        by_category: dict[str, tuple[int, int]] = {}
        for step in self.steps:
            for category, (tried, breached) in step.get(approach, {}).items():
                before = by_category.get(category, (0, 0))
                by_category[category] = before[0] + tried, before[1] + breached
        return by_category

    def table(self) -> list[Remembered]:
        """What the prompt shows: a row for each approach, of all categories. It says nothing of the dialogue
        at hand, whose category could give its intent away to the one who scores."""
        rows = []
        for approach, meaning in self.approaches.items():
            row = Remembered(approach=approach, meaning=meaning, tried=0, breached=0, most=[])
            counts = self.counts(approach)
            for name, (tried, breached) in sorted(counts.items(), key=lambda one: (-one[1][1], one[0])):
                row.tried, row.breached = row.tried + tried, row.breached + breached
                if name and breached and len(row.most) < MOST:
                    row.most.append(f"{name}: {breached} of {tried}")
            rows.append(row)
        return rows

    def draw(self, dialogue: Dialogue, turn: int) -> str:
        """An approach for the user turn after `turn` (0-based). Each gets a chance of a breach drawn from its
        posterior, Beta(1 + breached, 1 + held), and is chosen in proportion to it: what breaches is tried
        more, and what was hardly tried is tried too. The highest chance alone would give all siblings the
        attack to which all give way, and no trajectory to compare with. What this dialogue was attacked with
        before is left out, unless that is everything.

        The draw follows from seed, dialogue and memory alone; siblings have draws of their own.
        """
        rng = random.Random(f"{self.seed} {dialogue.id} {turn}")
        used = {before.meta.get("approach") for before in dialogue.turns[:turn]}
        names = [name for name in self.approaches if name not in used] or [*self.approaches]
        return rng.choices(names, [self._chance(name, category_of(dialogue), rng) for name in names])[0]

    def _chance(self, approach: str, category: str, rng: random.Random) -> float:
        tried = breached = 0.0
        for name, counts in self.counts(approach).items():
            weight = 1.0 if name == category else OTHERS
            tried, breached = tried + weight * counts[0], breached + weight * counts[1]
        return rng.betavariate(1 + breached, 1 + tried - breached)


@runtime_checkable
class Remembering(Protocol):
    """A critic with a memory, which Stage III tells of each step."""

    memory: TutorMemory | None


def memory_of(config: Config) -> TutorMemory | None:
    """The memory that a run's tutor begins with, if it has one. A sandbox's tutor attacks in the structures
    of its family, any other by the techniques of the attackers that adapt."""
    if not config.rl.remembers:
        return None
    from safer_steer.sandbox.families import approaches_of

    model = config.role("tutor").model
    embedded = model in ("sandbox", *SANDBOX_AGENTS)
    return TutorMemory(approaches_of(model) if embedded else TECHNIQUES, config.rl_seed)


def full_table(config: Config) -> list[Remembered]:
    """The table at its longest, for an estimate of the prompt; empty without a memory."""
    memory = memory_of(config)
    if memory is None:
        return []
    categories = {f"category of risk {number}": [100, 10] for number in range(MOST)}
    memory.learn(dict.fromkeys(memory.approaches, categories))
    return memory.table()
