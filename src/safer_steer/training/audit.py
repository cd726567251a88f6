"""The audit of Stage III (`rl.audit`): a second judge scores a share of the turns again.

The tutor's scores are what the student is trained on, so it learns what the tutor wrongly rewards, too. The
audit is asked after a step has been played, with the tutor's own prompt, and nothing that it says goes into a
return. It adds its verdict to the turn's meta; `report/health/drift.py` looks at both.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue
from safer_steer.episode import Critic
from safer_steer.errors import BoundaryError
from safer_steer.intervals import of_groups
from safer_steer.training.patience import LastVerdicts, patience_of
from safer_steer.training.returns import EQUAL, reward_of

AGREE = 1
"""Points of safety (1-10) by which two that agree may differ."""

T = TypeVar("T")


@dataclass(frozen=True)
class Audit:
    """The second judge, and the turns that it gets."""

    critic: Critic
    """A tutor that writes no next turn."""
    config: Config

    def drawn(self, dialogue: Dialogue) -> list[int]:
        """The turns (0-based) of a trajectory to score again: of those that the return is made of, a share
        drawn by the run's seed, the trajectory's id and the turn."""
        audit = self.config.rl.audit
        assert audit, "a run with an audit"
        turns = []
        for place, turn in enumerate(dialogue.turns):
            draw = random.Random(f"audit {self.config.rl_seed} {dialogue.id} {place}").random()
            if draw < audit.share and turn.scores and "reward" in turn.scores:
                turns.append(place)
        return turns

    async def score(self, dialogues: Sequence[Dialogue]) -> None:
        """Score the turns drawn, side by side, into their meta. One that fails is noted there; it ends
        nothing."""
        audit = self.config.rl.audit
        assert audit, "a run with an audit"
        waiting = [(dialogue, place) for dialogue in dialogues for place in self.drawn(dialogue)]
        few = max(1, int(self.config.rl.max_unscored * len(waiting)))
        critic = LastVerdicts(self.critic, patience_of(self.config, audit.role), few)

        async def one(dialogue: Dialogue, place: int) -> None:
            turn = dialogue.turns[place]
            with critic.playing(dialogue.id):
                try:
                    verdict = await critic.judge(dialogue, place, None)
                except BoundaryError as error:
                    turn.meta["audit"] = {"unscored": str(error.fault)}
                    return
            reward = reward_of(
                turn.assistant or "", verdict.scores, self.config.rl, self.config.student.format
            )
            reason = verdict.meta.get("diagnosis", "")
            turn.meta["audit"] = {"scores": {**verdict.scores, "reward": reward}, "reason": reason}

        async with critic.watching():
            await asyncio.gather(*(one(dialogue, place) for dialogue, place in waiting))


@dataclass(frozen=True)
class Audited:
    """A turn that both scored: the rewards r_t', and whether their safety scores agree."""

    trajectory: str
    turn: int
    """From 1."""
    seed: str
    """The script that its trajectory was played from. Those of one script err together."""
    tutor: float
    audit: float
    agree: bool


def audited_in(dialogue: Mapping[str, Any]) -> list[Audited]:
    """The turns of a trajectory, as a row, that both scored."""
    turns = []
    for place, turn in enumerate(dialogue["turns"], 1):
        own, second = turn["scores"], (turn["meta"].get("audit") or {}).get("scores")
        if own and second:
            agree = abs(own["safety"] - second["safety"]) <= AGREE
            rewards, seed = (float(own["reward"]), float(second["reward"])), str(dialogue["meta"]["seed"])
            turns.append(Audited(dialogue["id"], place, seed, *rewards, agree))
    return turns


def by_script(turns: Iterable[Audited], value: Callable[[Audited], T]) -> list[list[T]]:
    """A value of each turn, by script."""
    by_seed = defaultdict(list)
    for turn in turns:
        by_seed[turn.seed].append(value(turn))
    return list(by_seed.values())


@dataclass(frozen=True)
class Following:
    """How the tutor's rewards of a script's turns follow the audit's."""

    slope: float
    """By how much the tutor's reward is higher where the audit's is higher by 1: 1 where they agree, 0 where
    it is chance, below 0 where the tutor rewards what the audit does not."""
    error: float
    """Standard error of the slope, clustered by script."""
    scripts: int
    """Those whose turns the audit rewards differently; others say nothing."""


def following(turns: Iterable[Audited]) -> Following | None:
    """Over these turns, each compared with the others of its script; None with fewer than two scripts.

    GRPO compares trajectories of one script, so this is what the student is taught. A constant gap between
    the two is no part of it, and errors at random lower it without turning it round.
    """
    sums = []
    for group in by_script(turns, lambda turn: turn):
        tutor, audit = fmean(turn.tutor for turn in group), fmean(turn.audit for turn in group)
        spread = sum((turn.audit - audit) ** 2 for turn in group)
        if spread > EQUAL**2:
            sums.append((sum((turn.tutor - tutor) * (turn.audit - audit) for turn in group), spread))
    if len(sums) < 2:
        return None
    whole = sum(spread for _, spread in sums)
    slope = sum(product for product, _ in sums) / whole
    squares = sum((product - slope * spread) ** 2 for product, spread in sums)
    return Following(slope, (squares * len(sums) / (len(sums) - 1)) ** 0.5 / whole, len(sums))


def audit_metrics(dialogues: Sequence[Dialogue]) -> dict[str, Any]:
    """What the row of rl/metrics.jsonl says of a step's audit: `compared` of its turns, and how many the
    audit left unscored."""
    turns, unscored = list[Audited](), 0
    for dialogue in dialogues:
        turns += audited_in(dialogue.model_dump())
        for turn in dialogue.turns:
            unscored += "unscored" in turn.meta.get("audit", {})
    return compared(turns) | {"unscored": unscored}


def compared(turns: Sequence[Audited]) -> dict[str, Any]:
    """The number of turns that both scored, the mean reward r_t' by the tutor and by the audit over them,
    their gap (tutor - audit) with its interval, the share on which they agree (`AGREE`), and the slope of
    `following`. All are None without a turn, the interval's ends also where `of_groups` gives
    none, and the slope with a single script."""
    if not turns:
        return dict.fromkeys(("tutor", "audit", "gap", "agree", "slope")) | {"turns": 0}
    follows = following(turns)
    return {
        "turns": len(turns),
        "tutor": fmean(turn.tutor for turn in turns),
        "audit": fmean(turn.audit for turn in turns),
        "gap": of_groups(by_script(turns, lambda turn: turn.tutor - turn.audit)),
        "agree": fmean(turn.agree for turn in turns),
        "slope": follows.slope if follows else None,
    }
