"""Compute the return of a scored dialogue, and the metrics of a step."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar

from safer_steer.config import Config
from safer_steer.config.rl import Reinforce
from safer_steer.dialogue import Dialogue, Format, StopReason
from safer_steer.errors import UserError
from safer_steer.rewards import LEAK, has_thinking_answer, repetition_ratio, shaped_reward, tcsr, turn_reward
from safer_steer.training.credit import returns_to_go

UNSCORED = (StopReason.UNSCORED, StopReason.USER_FAILED, StopReason.ASSISTANT_FAILED)
"""Stop reasons of trajectories that ended because a call failed."""
LOST = (*UNSCORED, StopReason.CONTEXT_FULL)
"""Stop reasons of trajectories that have no return."""
SCORES = ("safety", "usefulness", "faithfulness")
EQUAL = 0.01
"""Returns that differ by no more are equal. Under equal verdicts the penalty for repetition still makes small
differences, and one point of faithfulness in one turn of ten makes 0.007; a leak makes more than 0.1. The
advantage is not divided by the standard deviation, so what is small here is small in the gradient."""
Fact = TypeVar("Fact")


def turn_rewards(dialogue: Dialogue, config: Reinforce, format: Format) -> list[float] | None:
    """r_t' of each turn; None if the dialogue was not played and scored to the end.

    r_t' is the weighted turn reward plus a format bonus (not in the plain format) minus a repetition penalty.
    A trajectory that ran out of context gets None; otherwise a model that leaks late would gain from long
    answers.
    """
    if dialogue.stop in LOST:
        return None
    rewards = []
    for turn in dialogue.turns:
        if turn.scores is None:
            return None
        rewards.append(reward_of(turn.assistant or "", turn.scores, config, format))
    return rewards or None


def reward_of(answer: str, scores: Mapping[str, float], config: Reinforce, format: Format) -> float:
    """r_t' of an answer with the tutor's scores. Raises `UserError` if a tutor of one's own gave others."""
    try:
        safety, usefulness, faithfulness = (scores[name] for name in SCORES)
        reward = turn_reward(safety, usefulness, faithfulness, config.weights)
    except (LookupError, TypeError, ValueError):
        raise UserError(
            f"rl.tutor: a verdict with the scores {dict(scores)}; give {', '.join(SCORES)}, each within 1-10"
        ) from None
    return shaped_reward(
        reward,
        format_kept=format is Format.THINKING_ANSWER and has_thinking_answer(answer),
        repetition=repetition_ratio(answer),
        w_format=config.w_format,
        w_repetition=config.w_repetition,
    )


def trajectory_return(dialogue: Dialogue, config: Reinforce, format: Format) -> float | None:
    """R of a trajectory: the TCSR of its turn rewards, or None if it has none (see `turn_rewards`)."""
    rewards = turn_rewards(dialogue, config, format)
    return None if rewards is None else tcsr(rewards, config.alpha, config.tcsr)


def turn_returns(dialogue: Dialogue, config: Reinforce, format: Format) -> list[float] | None:
    """G_t of each turn (`credit.returns_to_go`), or None if the trajectory has no return."""
    rewards = turn_rewards(dialogue, config, format)
    return None if rewards is None else returns_to_go(rewards, config.alpha, config.tcsr)


def noted_return(config: Config, dialogue: Dialogue) -> float | None:
    """The trajectory's return. Also writes each turn's reward into its scores, next to the tutor's, for the
    metrics and for readers of the trajectories."""
    if rewards := turn_rewards(dialogue, config.rl, config.student.format):
        for turn, reward in zip(dialogue.turns, rewards, strict=True):
            turn.scores = {**(turn.scores or {}), "reward": reward}
    return trajectory_return(dialogue, config.rl, config.student.format)


def step_metrics(dialogues: list[Dialogue], returns: list[float | None]) -> dict[str, Any]:
    """Metrics of one step's rollouts: return, leak rate, spread of the groups, scores by turn index, stop
    reasons, strategies.

    A trajectory without a return counts as `incomplete` if it ran out of context, else as `unscored`. A group
    is the trajectories of one seed (`meta.seed`); a step plays each of its seeds in one group.
    """
    incomplete = sum(dialogue.stop is StopReason.CONTEXT_FULL for dialogue in dialogues)
    scored = [dialogue for dialogue, value in zip(dialogues, returns, strict=True) if value is not None]
    values = [value for value in returns if value is not None]
    strategies = Counter(turn.meta.get("strategy", "none") for d in dialogues for turn in d.turns[:-1])
    return {
        "trajectories": len(dialogues),
        "unscored": sum(value is None for value in returns) - incomplete,
        "incomplete": incomplete,
        "return": _mean(values),
        "leak_rate": _mean(map(leaks, scored)),
        "equal_groups": equal_groups(dialogues, returns),
        "distinct_attacks": distinct_attacks(dialogues),
        "format_kept": _mean(has_thinking_answer(turn.assistant or "") for d in scored for turn in d.turns),
        "turns": _mean(len(d.turns) for d in scored),
        **{f"{name}_by_turn": _by_turn(scored, name) for name in (*SCORES, "reward")},
        "stop": dict(sorted(Counter(str(d.stop) for d in dialogues).items())),
        "strategies": dict(sorted(strategies.items())),
    }


def leaks(dialogue: Dialogue) -> bool:
    """Whether a scored turn leaked something."""
    return any(turn.scores and turn.scores["safety"] <= LEAK for turn in dialogue.turns)


def equal_groups(dialogues: Sequence[Dialogue], returns: Sequence[float | None]) -> float | None:
    """Share of the groups whose returns are all equal (`EQUAL`), so that no trajectory has an advantage worth
    the name.

    A group with fewer than two returns has nothing to compare and is left out; the trajectories that it lost
    are counted as `unscored` or `incomplete`. None if no group is left.
    """
    groups = _by_seed(dialogues, returns)
    scored = [[value for value in group if value is not None] for group in groups]
    return _mean(max(group) - min(group) <= EQUAL for group in scored if len(group) > 1)


def distinct_attacks(dialogues: Sequence[Dialogue]) -> float | None:
    """How varied the first attacks that may adapt are: the number of distinct user turns at turn 2, as a
    share of the group's trajectories that reached it, scored or not; the mean over groups.

    1 / K if all trajectories of a group met the same turn, 1 if each met one of its own. A group of which
    fewer than two reached turn 2 is left out. None if no group is left.
    """
    groups = _by_seed(
        dialogues, [dialogue.turns[1].user if dialogue.turns[1:] else None for dialogue in dialogues]
    )
    reached = [[user for user in group if user is not None] for group in groups]
    return _mean(len(set(group)) / len(group) for group in reached if len(group) > 1)


def _by_seed(dialogues: Sequence[Dialogue], facts: Sequence[Fact]) -> list[list[Fact]]:
    """What is given of each trajectory, by group."""
    groups = defaultdict(list)
    for dialogue, fact in zip(dialogues, facts, strict=True):
        groups[dialogue.meta["seed"]].append(fact)
    return list(groups.values())


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return fmean(values) if values else None


def _by_turn(dialogues: list[Dialogue], name: str) -> list[float | None]:
    """Mean of a score per turn, over the dialogues that reached the turn; None if no dialogue has it."""
    means: list[float | None] = []
    for place in range(max((len(dialogue.turns) for dialogue in dialogues), default=0)):
        reached = [d.turns[place].scores or {} for d in dialogues if place < len(d.turns)]
        means.append(_mean(scores[name] for scores in reached if name in scores))
    return means
