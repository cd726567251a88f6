"""From counts to money and time, by stage and role."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from safer_steer.bootstrap.rollout import in_play
from safer_steer.config import Config, Role
from safer_steer.cost.assumptions import WAIT_S
from safer_steer.cost.counting import Count, Seat, role_of
from safer_steer.cost.estimate import Estimate
from safer_steer.stages import STAGES


@dataclass
class Line:
    """What one role does in one stage."""

    stage: str
    seat: Seat
    model: str
    local: bool
    """Done on this machine, by the student or the sandbox's agents: it costs no money, and nobody knows how
    long it takes."""
    count: Count
    money: float | None
    """None where it is local or the role has no price."""
    seconds: float | None
    """None where it is local."""


@dataclass
class Prices:
    lines: list[Line]
    seconds: dict[str, float]
    """By stage, which run one after the other; local work is not in it."""
    unpriced: list[Seat]
    """Roles at an endpoint whose price the config does not give."""

    @property
    def money(self) -> float:
        return sum(line.money or 0 for line in self.lines)

    def stops_in(self, limit: float | None) -> str | None:
        """The stage in which a spending limit would be reached; None if in none."""
        spent = 0.0
        for line in self.lines:
            spent += line.money or 0
            if limit is not None and spent > limit:
                return line.stage
        return None


def price(found: Estimate) -> Prices:
    """Price an estimate. Calls that are made again (`overhead`) are in it."""
    lines = [line for stage in found.stages for line in _lines(found, stage)]
    seconds = {stage: _stage_seconds(found, stage, lines) for stage in found.stages}
    unpriced = [line.seat for line in lines if not line.local and line.money is None]
    return Prices(lines, seconds, list(dict.fromkeys(unpriced)))


def _lines(found: Estimate, stage: str) -> list[Line]:
    by_seat: defaultdict[Seat, Count] = defaultdict(Count)
    for (seat, _), count in found.stages[stage].items():
        by_seat[seat] = by_seat[seat].plus(count)
    return [_line(found, stage, seat, count) for seat, count in by_seat.items()]


def _line(found: Estimate, stage: str, seat: Seat, count: Count) -> Line:
    role = role_of(found.config, seat)
    model = found.config.student.model if role.who == "student" else role.model
    if role.who != "endpoint":
        return Line(stage, seat, model, True, count, None, None)
    count = Count().plus(count, 1 + found.assumed.overhead)
    priced = role.price_in or role.price_out
    money = (role.price_in * count.tokens_in + role.price_out * count.tokens_out) / 1e6 if priced else None
    return Line(stage, seat, model, False, count, money, _role_seconds(found, role, count))


def _reply_seconds(found: Estimate, count: Count) -> float:
    """Of one call, on the mean."""
    return WAIT_S + count.tokens_out / count.calls / found.assumed.tokens_per_second if count.calls else 0.0


def _role_seconds(found: Estimate, role: Role, count: Count) -> float:
    """With all its calls in flight all the time, or as many in a minute as it may make."""
    busy = count.calls * _reply_seconds(found, count) / role.concurrency
    return max(busy, 60 * count.calls / role.requests_per_minute if role.requests_per_minute else 0.0)


def _stage_seconds(found: Estimate, stage: str, lines: list[Line]) -> float:
    """Roles work side by side, so the slowest one bounds the stage; so does the chain of calls in a dialogue,
    of which only so many are in play."""
    slowest = max((line.seconds or 0.0 for line in lines if line.stage == stage), default=0.0)
    return max(slowest, _chain_seconds(found, stage))


def _chain_seconds(found: Estimate, stage: str) -> float:
    remote = {
        key: count
        for key, count in found.stages[stage].items()
        if role_of(found.config, key[0]).who == "endpoint"
    }
    chain = {key: count for key, count in remote.items() if key[1] in STAGES[stage].chain}
    if stage == "rl":  # a step's trajectories start together, and its end waits for the longest
        steps = found.trajectories / (found.config.rl.prompts_per_step * found.config.rl.group_size)
        return sum(steps * found.longest * _reply_seconds(found, count) for count in chain.values())
    total = sum(count.calls * _reply_seconds(found, count) for count in chain.values())
    return (1 + found.assumed.overhead) * total / _in_play(found.config, stage)


def _in_play(config: Config, stage: str) -> int:
    """Pairs or dialogues at once."""
    return (
        max(config.role(role).concurrency for role in STAGES["seeds"].roles)
        if stage == "seeds"
        else in_play(config)
    )
