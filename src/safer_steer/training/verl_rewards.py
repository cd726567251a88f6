"""Turn rewards in the one field that verl's trainer hands to an advantage estimator, and the advantages from
it.

verl keeps a reward for each token of a response (`rm_scores`, later `token_level_rewards`), [tokens], and
nothing else about a trajectory reaches an estimator. So each turn's reward stands on the turn's last token.
Tokens without a reward hold 0; what has to differ from that is a number too small to change any sum:

| row | meaning |
|---|---|
| a number on a turn's last token | the reward of that turn; `ZERO` for a reward of exactly 0 |
| `CUT_OFF` on the last token | no return, because the context was full |
| only zeros | no return, because a call failed: unscored |

A trajectory without a return has no advantage and is not in its group's mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from safer_steer.config.rl import Reinforce
from safer_steer.dialogue import StopReason
from safer_steer.errors import UserError
from safer_steer.rewards import group_advantages, tcsr
from safer_steer.training.credit import returns_to_go, turn_advantages
from safer_steer.training.refusals import RECENT_STEPS, refuse_unscored
from safer_steer.training.trajectory import Trajectory, by_token
from safer_steer.workers import Breaker

ZERO = 1e-30
"""Stands for a reward of exactly 0. Normal in float32."""
CUT_OFF = -1e-30
"""Marks a trajectory that ran out of context."""


def token_rewards(trajectory: Trajectory, by_turn: bool) -> list[float]:
    """The row of a trajectory, one number for each token of its completion.

    Args:
        by_turn: the return is that of the turn rewards noted in the dialogue. With a reward of one's own
            (`rl.reward`) only the return is known, and stands on the last turn's end.
    """
    row = [0.0] * len(trajectory.completion_ids)
    if trajectory.value is None:
        row[-1] = CUT_OFF if trajectory.dialogue.stop is StopReason.CONTEXT_FULL else 0.0
    elif by_turn:
        for end, turn in zip(trajectory.ends, trajectory.dialogue.turns, strict=True):
            assert turn.scores, "a dialogue with a return has all its turns scored"
            row[end] = turn.scores["reward"] or ZERO
    else:
        row[trajectory.ends[-1]] = trajectory.value or ZERO
    return row


@dataclass(frozen=True)
class RewardedTurns:
    """What a row says of its trajectory."""

    rewards: list[float] | None
    """r_t' of each turn; None if the trajectory has no return."""
    ends: list[int]
    """Place of each turn's last token."""
    cut_off: bool = False


def turns_of(row: torch.Tensor) -> RewardedTurns:
    """Read a row [tokens], padded with zeros or not."""
    ends = row.nonzero().flatten().tolist()
    rewards = [row[end].item() for end in ends]
    tiny = torch.tensor([ZERO, CUT_OFF], dtype=row.dtype).tolist()
    if rewards == tiny[1:]:
        return RewardedTurns(None, [], cut_off=True)
    return RewardedTurns([0.0 if reward == tiny[0] else reward for reward in rewards] or None, ends)


Credit = Callable[[list[RewardedTurns], Reinforce], list[list[float] | None]]
"""From one seed's trajectories to the advantages of each turn; None for one without a return."""


def by_trajectory(group: list[RewardedTurns], rl: Reinforce) -> list[list[float] | None]:
    """TCSR less the mean over the seed's scored trajectories, the same for every turn."""
    returns = [tcsr(turns.rewards, rl.alpha, rl.tcsr) if turns.rewards else None for turns in group]
    return [
        None if value is None else [value] * len(turns.ends)
        for value, turns in zip(group_advantages(returns), group, strict=True)
    ]


def by_turn(group: list[RewardedTurns], rl: Reinforce) -> list[list[float] | None]:
    """Each turn's return to go less that of its siblings (`credit.turn_advantages`)."""
    return turn_advantages(
        [returns_to_go(turns.rewards, rl.alpha, rl.tcsr) if turns.rewards else None for turns in group]
    )


def advantages(
    rows: torch.Tensor, mask: torch.Tensor, seeds: Sequence[str], rl: Reinforce, credit: Credit
) -> torch.Tensor:
    """The advantage of every token [trajectories, tokens]; 0 where the mask is, and without a return.

    Args:
        rows: `token_rewards` of each trajectory, padded with zeros to [trajectories, tokens].
        mask: 1 on sampled tokens.
        seeds: which seed each trajectory is of. Those of one seed are a group.
    """
    groups = defaultdict(list)
    for place, seed in enumerate(seeds):
        groups[seed].append(place)
    turns = [turns_of(row) for row in rows]
    by_turn: list[list[float] | None] = [None] * len(turns)
    for places in groups.values():
        for place, values in zip(places, credit([turns[place] for place in places], rl), strict=True):
            by_turn[place] = values
    return by_token(by_turn, [one.ends for one in turns], mask)


class ScoredShare:
    """Stops a run whose tutor is out of order, as `rl` does here: see `rl.max_unscored`."""

    def __init__(self) -> None:
        self._recent: Breaker | None = None

    def note(self, rows: torch.Tensor, mask: torch.Tensor, rl: Reinforce) -> None:
        """Count the trajectories of a step. Rows without a sampled token are verl's padding. Raises
        `UserError` if no trajectory has a return, or too many of the last steps' were unscored."""
        trajectories = [turns_of(row) for row, sampled in zip(rows, mask, strict=True) if sampled.any()]
        if not any(turns.rewards for turns in trajectories):
            raise UserError(
                "rl: no trajectory of this step has a return; read why in the trajectories, fix that, then"
                " start the same script again"
            )
        unscored = sum(turns.rewards is None and not turns.cut_off for turns in trajectories)
        self._recent = self._recent or Breaker(RECENT_STEPS, rl.max_unscored)
        refuse_unscored(self._recent, unscored, len(trajectories), "", "start the same script again")
