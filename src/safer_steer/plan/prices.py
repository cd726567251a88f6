"""Converts counts to money and time, by stage and role."""

from __future__ import annotations

from dataclasses import dataclass

from safer_steer.config import Role
from safer_steer.data.bootstrap.rollout import in_play
from safer_steer.plan.assumptions import WAIT_S
from safer_steer.plan.calls import Estimate
from safer_steer.plan.counting import Count, role_of
from safer_steer.stages import STAGES
from safer_steer.stages.forecast import Participant


@dataclass
class Line:
    """The cost of one role in one stage."""

    stage: str
    participant: Participant
    model: str
    local: bool
    """Runs on this machine (the student or the sandbox's agents): costs no money, and its time is not
    estimated."""
    count: Count
    money: float | None
    """None if the role is local or has no price."""
    seconds: float | None
    """None if the role is local."""


@dataclass
class Prices:
    lines: list[Line]
    seconds: dict[str, float]
    """By stage, without local work. Stages run one after the other."""
    unpriced: list[Participant]
    """Endpoint roles without a price in the config."""

    @property
    def money(self) -> float:
        return sum(line.money or 0 for line in self.lines)

    def stops_in(self, limit: float | None) -> str | None:
        """The stage in which the spending limit would be exceeded; None if it would not be."""
        spent = 0.0
        for line in self.lines:
            spent += line.money or 0
            if limit is not None and spent > limit:
                return line.stage
        return None


def price(found: Estimate) -> Prices:
    """Price an estimate, including repeated calls (`overhead`)."""
    lines = [line for stage in found.stages for line in _lines(found, stage)]
    seconds = {stage: _stage_seconds(found, stage, lines) for stage in found.stages}
    unpriced = [line.participant for line in lines if not line.local and line.money is None]
    return Prices(lines, seconds, list(dict.fromkeys(unpriced)))


def _lines(found: Estimate, stage: str) -> list[Line]:
    roles = dict.fromkeys(who for who, _ in found.stages[stage])
    return [_line(found, stage, who, found.role(stage, who)) for who in roles]


def _line(found: Estimate, stage: str, participant: Participant, count: Count) -> Line:
    role = role_of(found.config, participant)
    model = found.config.model_id(role)
    if not role.remote:
        return Line(stage, participant, model, True, count, None, None)
    count = Count().plus(count, 1 + found.assumed.overhead)
    priced = role.price_in or role.price_out
    money = (role.price_in * count.tokens_in + role.price_out * count.tokens_out) / 1e6 if priced else None
    return Line(stage, participant, model, False, count, money, _role_seconds(found, role, count))


def _reply_seconds(found: Estimate, count: Count) -> float:
    """Mean time of one call."""
    return WAIT_S + count.tokens_out / count.calls / found.assumed.tokens_per_second if count.calls else 0.0


def _role_seconds(found: Estimate, role: Role, count: Count) -> float:
    """Time of a role that always uses its full concurrency; its rate limit may make it longer."""
    busy = count.calls * _reply_seconds(found, count) / role.concurrency
    return max(busy, 60 * count.calls / role.requests_per_minute if role.requests_per_minute else 0.0)


def _stage_seconds(found: Estimate, stage: str, lines: list[Line]) -> float:
    """Roles work in parallel, so the slowest one bounds the stage. So does the chain of calls within a
    dialogue, since only a limited number of dialogues is in play."""
    slowest = max((line.seconds or 0.0 for line in lines if line.stage == stage), default=0.0)
    return max(slowest, _chain_seconds(found, stage))


def _chain_seconds(found: Estimate, stage: str) -> float:
    chain = [
        count
        for (who, job), count in found.stages[stage].items()
        if job in STAGES[stage].chain and role_of(found.config, who).remote
    ]
    if stage == "rl":  # a step's trajectories start together; the step ends with the longest
        steps = found.trajectories / (found.config.rl.prompts_per_step * found.config.rl.group_size)
        return sum(steps * found.longest * _reply_seconds(found, count) for count in chain)
    pairs = max(found.config.role(role).concurrency for role in STAGES["seeds"].roles)
    at_once = pairs if stage == "seeds" else in_play(found.config)
    total = sum(count.calls * _reply_seconds(found, count) for count in chain)
    return (1 + found.assumed.overhead) * total / at_once
