"""The estimate: what every stage forecasts (`stages/forecast.py`), with the sizes of its calls, and its
price in money and time. What a run paid corrects it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from safer_steer.config import Config
from safer_steer.config.file import config_in
from safer_steer.data.bootstrap.rollout import in_play
from safer_steer.dialogue import Kind
from safer_steer.errors import UserError
from safer_steer.files.manifest import Manifest
from safer_steer.plan.assumptions import WAIT_S, Assumptions, assumptions
from safer_steer.plan.counting import Count, Sizes, role_of
from safer_steer.plan.material import read_material
from safer_steer.stages import STAGES
from safer_steer.stages.forecast import (
    CallGroup,
    ForecastInputs,
    Participant,
    draws,
    scripts,
    suites,
    training,
    trajectories,
)
from safer_steer.training.draws import too_few_seeds

CallCounts = dict[tuple[Participant, str], Count]
"""Counts by (participant, job)."""

CHANCE = 50
"""Calls that the forecast weighs as much as, against those of a run that has asked only a small part: how
often eight pairs give in is mostly chance. Of what a run has asked itself, nothing is chance."""


@dataclass
class Estimate:
    """The calls of a full run, by stage."""

    config: Config
    assumed: Assumptions
    stages: dict[str, CallCounts] = field(default_factory=dict)
    """In pipeline order; stages without calls are omitted."""
    pairs: int = 0
    """Pairs in the sources, or scripts of one's own."""
    dialogues: int = 0
    """Dialogues in the suites."""
    scripts: dict[Kind, float] = field(default_factory=dict)
    """Scripts made by Stage I."""
    trajectories: float = 0
    """Trajectories played by Stage III."""
    longest: int = 0
    """Turns of its longest trajectory."""
    notes: list[str] = field(default_factory=list)
    """What is not included in the estimate, or would fail."""

    def role(self, stage: str, who: str) -> Count:
        """A role's counts in a stage, over all its jobs."""
        total = Count()
        for (other, _), count in self.stages.get(stage, {}).items():
            total = total.plus(count, other == who)
        return total


def estimate(config: Config, assumed: Assumptions | None = None) -> Estimate:
    """Count the calls a run of this config would make. It makes no calls, needs no API key, and writes only
    to a temporary folder. Raises `UserError`: a source or a suite is missing or unusable."""
    assumed = assumed or assumptions(config)
    facts, material = read_material(config, assumed)
    sizes = Sizes(config, assumed, material)
    lengths = [1 if config.rl.single_turn else max(one.lengths) for one in training(config, facts).values()]
    by_kind = scripts(config, facts, "train", "bench")
    result = Estimate(
        config,
        assumed,
        pairs=round(sum(one.count for one in facts.own.values())) or sum(pairs.all for pairs in facts.pairs),
        dialogues=round(sum(suite.count for suite in suites(config, facts))),
        scripts={kind: one.count for kind, one in by_kind.items() if one.count},
        trajectories=trajectories(config, facts),
        longest=min(config.rl.max_turns, max(lengths, default=0)),
        notes=_notes(config, facts),
    )
    described = False
    for name, stage in STAGES.items():
        counts: CallCounts = defaultdict(Count)
        groups, bench = list(stage.forecast(config, facts)), name == "bench"
        captions = list(_captions(config, groups, result.dialogues if bench else result.pairs))
        if bench or not described:
            groups += captions
        described = described or bool(captions)
        for one in groups:
            counts[one.who, one.job] = counts[one.who, one.job].plus(sizes.count(one, bench))
        if counts:
            result.stages[name] = counts
    return result


def _captions(config: Config, groups: Sequence[CallGroup], pictures: int) -> Iterator[CallGroup]:
    """One description of each picture, if a role that is asked gets words in its place."""
    if config.captioner and any(role_of(config, one.who).pictures == "caption" for one in groups):
        yield CallGroup(config.captioner, "caption", pictures, pictures=pictures)


def _notes(config: Config, facts: ForecastInputs) -> list[str]:
    notes, adaptive = [], config.bench.adaptive
    if config.rl.tutor:
        notes.append(
            f"Stage III is not included: the calls of your own tutor ({config.rl.tutor}) are unknown."
        )
    elif line := too_few_seeds(config.rl, int(sum(draws(config, facts).rl.values()))):
        notes.append(f"Stage III would not start: {line}.")
    if adaptive and adaptive.own:
        notes.append(f"The dialogues of your own attackers ({', '.join(adaptive.own)}) are not included.")
    return notes


def from_run(forecast: Estimate, folder: Path) -> Estimate:
    """The estimate, corrected for the stages that the run in `folder` has finished.

    Its own config is forecast too, and each role differs from this config's forecast as it did from that one.
    With the same config the counts are the run's. Raises `UserError`: it is no run, or no stage of it that
    asks is finished.
    """
    paid = {name: entry["calls"] for name, entry in Manifest(folder).stages.items() if entry.get("calls")}
    if not paid or not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: no stage that asks a model is finished in it; give the folder of a run")
    there = estimate(config_in(folder), forecast.assumed)
    stages = {name: dict(counts) for name, counts in forecast.stages.items()}
    for name, accounts in paid.items():
        for who, account in accounts.items():
            mine, its = forecast.role(name, who), there.role(name, who)
            if not (account["calls"] and mine.calls and its.calls):
                continue
            chance = CHANCE * max(0, 1 - its.calls / mine.calls)
            times = (account["calls"] + chance) / (its.calls + chance)
            sees = role_of(forecast.config, who).remote  # agents here do not count pictures
            each = its.calls / account["calls"]
            # A server that reports no tokens corrects the calls alone.
            longer = account["prompt_tokens"] / (its.tokens_in if sees else its.text_tokens) * each or 1.0
            wordier = account["completion_tokens"] / its.tokens_out * each or 1.0
            for key, count in forecast.stages[name].items():
                if key[0] == who:
                    stages[name][key] = Count(
                        count.calls * times,
                        count.images * times,
                        (count.tokens_in if sees else count.text_tokens) * times * longer,
                        0 if sees else count.image_tokens * times,
                        count.tokens_out * times * wordier,
                        count.upload_bytes * times,
                    )
    names = ", ".join(name for name in forecast.stages if name in paid)
    note = f"From what {folder} asked: {names}. Tokens are as its models counted them."
    return replace(forecast, stages=stages, notes=[note, *forecast.notes])


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
        total = 0.0
        for line in self.lines:
            total += line.money or 0
            if limit is not None and total > limit:
                return line.stage
        return None


def price(forecast: Estimate) -> Prices:
    """Price an estimate, including repeated calls (`overhead`)."""
    prices = Prices([], {}, [])
    for stage, counts in forecast.stages.items():
        lines = [_line(forecast, stage, who) for who in dict.fromkeys(who for who, _ in counts)]
        # Roles work in parallel, so the slowest one bounds the stage.
        slowest = max(line.seconds or 0.0 for line in lines)
        prices.seconds[stage] = max(slowest, _chain_seconds(forecast, stage))
        prices.lines += lines
    unpriced = [line.participant for line in prices.lines if not line.local and line.money is None]
    prices.unpriced = list(dict.fromkeys(unpriced))
    return prices


def _line(forecast: Estimate, stage: str, participant: Participant) -> Line:
    role, count = role_of(forecast.config, participant), forecast.role(stage, participant)
    model = forecast.config.model_id(role)
    if not role.remote:
        return Line(stage, participant, model, True, count, None, None)
    count = Count().plus(count, 1 + forecast.assumed.overhead)
    priced = role.price_in or role.price_out
    money = (role.price_in * count.tokens_in + role.price_out * count.tokens_out) / 1e6 if priced else None
    busy = count.calls * _reply_seconds(forecast, count) / role.concurrency
    limited = 60 * count.calls / role.requests_per_minute if role.requests_per_minute else 0.0
    return Line(stage, participant, model, False, count, money, max(busy, limited))


def _chain_seconds(forecast: Estimate, stage: str) -> float:
    """Time of the calls that wait for one another within a dialogue, of which a limited number is in play."""
    config = forecast.config
    chain = [
        (who, count)
        for (who, job), count in forecast.stages[stage].items()
        if job in STAGES[stage].chain and role_of(config, who).remote
    ]
    if stage == "rl":  # a step's trajectories start together; the step ends with the longest, and the audit
        steps = forecast.trajectories / (config.rl.prompts_per_step * config.rl.group_size)
        rounds = {"tutor": forecast.longest}
        return sum(steps * rounds.get(who, 1) * _reply_seconds(forecast, count) for who, count in chain)
    pairs = max(config.role(role).concurrency for role in STAGES["seeds"].roles)
    at_once = pairs if stage == "seeds" else in_play(config)
    total = sum(count.calls * _reply_seconds(forecast, count) for _, count in chain)
    return (1 + forecast.assumed.overhead) * total / at_once


def _reply_seconds(forecast: Estimate, count: Count) -> float:
    if not count.calls:
        return 0.0
    return WAIT_S + count.tokens_out / count.calls / forecast.assumed.tokens_per_second
