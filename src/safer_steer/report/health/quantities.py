"""What is measured of a run in progress, and what people do where it is unusual. The warnings of `health` and
the gates of a config look at these quantities, and at no others.

All are read from the rows that the run has left on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from safer_steer.bench.adaptive.results import ADAPTIVE
from safer_steer.bench.judge_check.file import agreement, read_check
from safer_steer.bench.results import Summary
from safer_steer.bench.twin_probe import TWINS, probed_twins, without_twins
from safer_steer.config import Config
from safer_steer.config.gates import Band, GateName
from safer_steer.dialogue import Format
from safer_steer.files.store import read_rows
from safer_steer.metrics import over_refusal
from safer_steer.report.health.drift import FOLLOWS, THRESHOLD
from safer_steer.report.health.stages import OF_SCRIPT, examine
from safer_steer.report.health.tally import UNWRITTEN, Attacker, Health, Judge
from safer_steer.stages import STAGES

ENOUGH = 20
"""Fewest requests from which a share is meaningful."""
LAST = 5
"""Steps of a training that a mean of the present is over."""
_ROLES = {"generator", "red", "tutor", "attacker"}
ATTACKERS = tuple(name for name, stage in STAGES.items() if _ROLES & {*stage.roles})
"""Stages in which an attacker is at work; in the bench, only where one adapts."""
JUDGED = tuple(name for name in ATTACKERS if name != "bench")
"""Those of which a judge's scores are not the result."""

_JOBS = {"turn": "turns", "probe": "probes"}
_LABELS = {"red": "red agent"}


class Evidence:
    """What a run has left of one stage, read once."""

    def __init__(self, run: Path, stage: str) -> None:
        self.run, self.stage = run, stage

    @cached_property
    def health(self) -> Health:
        return examine(self.run, (self.stage,))

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """The rows of the stage's metrics.jsonl."""
        return list(read_rows(self.run / self.stage / "metrics.jsonl"))

    def numbers(self, name: str) -> list[float]:
        """A number of the steps, where they have it."""
        return [row[name] for row in self.steps if isinstance(row.get(name), int | float)]

    @property
    def attackers(self) -> Iterable[Attacker]:
        if self.stage == "bench" and not any(self.run.glob(f"bench/*/{ADAPTIVE}*.jsonl")):
            return []
        return self.health.attackers.values()

    @property
    def judges(self) -> Iterator[Judge]:
        """The first score of each role that judges enough turns."""
        roles = set()
        for judge in self.health.judges.values():
            if judge.asked >= ENOUGH and judge.role not in roles:
                roles.add(judge.role)
                yield judge


@dataclass(frozen=True)
class Reading:
    """A value, and what it says of the run."""

    value: float
    words: str
    role: str = ""
    """Whose model it is about."""


@dataclass(frozen=True)
class Quantity:
    """One quantity."""

    stages: tuple[str, ...]
    """After which it is looked at."""
    what: str
    """What it is, for readers of the docs."""
    advice: str
    """What people do where it is out of its band; `{role}` is that of the reading."""
    read: Callable[[Evidence], Iterable[Reading]]
    """Nothing where it is not measured, or on too little."""
    usual: Band | None = None
    """`health` warns by itself outside of this."""
    lacks: Callable[[Config], str] = lambda config: ""
    """What it needs that a config does not have, or ""."""

    def advice_on(self, reading: Reading) -> str:
        return self.advice.format(role=reading.role)


def _faults(fault: str, words: str, role: str = "") -> Callable[[Evidence], Iterator[Reading]]:
    """The share of an attacker's attempts that had a fault; of every attacker, unless a role is given."""

    def read(evidence: Evidence) -> Iterator[Reading]:
        for attacker in evidence.attackers:
            attempts = attacker.turn_attempts if fault in UNWRITTEN else attacker.attempts
            if min(attempts, attacker.asked) >= ENOUGH and role in ("", attacker.role):
                share = attacker.faults[fault] / attempts
                what = _JOBS.get(attacker.job, f"{attacker.job} scripts")
                name = _LABELS.get(attacker.role, attacker.role)
                yield Reading(share, f"{name}: {100 * share:.0f} % of its {what} were {words}", attacker.role)

    return read


def _fault(
    fault: str,
    words: str,
    stages: tuple[str, ...] = ATTACKERS,
    role: str = "",
    lacks: Callable[[Config], str] = lambda config: "",
) -> Quantity:
    who = f"the {role}'s" if role else "an attacker's"
    return Quantity(
        stages,
        f"Share of {who} attempts that were {words}.",
        "another model for roles.{role} may do better",
        _faults(fault, words, role),
        Band(at_most=0.05, basis="our choice"),
        lacks,
    )


def _unscored(evidence: Evidence) -> Iterator[Reading]:
    for judge in evidence.judges:
        share = judge.unscored.total() / judge.asked
        why = ", ".join(f"{count} {reason}" for reason, count in judge.unscored.most_common())
        words = f"{judge.role}: {100 * share:.0f} % of its turns have no score ({why})"
        yield Reading(share, words, judge.role)


def _constant(evidence: Evidence) -> Iterator[Reading]:
    for judge in evidence.health.judges.values():
        total = judge.verdicts.total()
        if total >= ENOUGH and judge.score not in OF_SCRIPT:
            verdict, count = judge.verdicts.most_common(1)[0]
            words = f"{judge.role}: {judge.score} was {verdict:g} in {count} of {total} turns"
            yield Reading(count / total, words, judge.role)


def _success(evidence: Evidence) -> Iterator[Reading]:
    strategies = [one for one in evidence.health.strategies.values() if one.role == "generator"]
    tried = sum(one.uses.tried for one in strategies)
    if tried >= ENOUGH:
        succeeded = sum(one.uses.succeeded for one in strategies)
        yield Reading(succeeded / tried, f"{succeeded} of {tried} red-team scripts broke the target")


def _pass_rate(evidence: Evidence) -> Iterator[Reading]:
    folder = evidence.run / "bootstrap"
    good, bad = (sum(1 for _ in read_rows(folder / f"{name}.jsonl")) for name in ("kept", "rejected"))
    if good + bad:
        yield Reading(good / (good + bad), f"{good} of {good + bad} dialogues passed the filter")


def _loss(evidence: Evidence) -> Iterator[Reading]:
    if losses := evidence.numbers("loss")[-LAST:]:
        value = fmean(losses)
        yield Reading(value, f"the loss of the last {len(losses)} steps was {value:.3g} nats a token")


def _gap(evidence: Evidence) -> Iterator[Reading]:
    for gap in evidence.numbers("logprob_gap")[:1]:
        yield Reading(gap, f"engine and trainer differed by {gap:.2g} nats a token at step 1")


def _format(evidence: Evidence) -> Iterator[Reading]:
    if shares := evidence.numbers("format_kept")[-LAST:]:
        value = fmean(shares)
        words = f"{100 * value:.0f} % of the answers of the last {len(shares)} steps kept the layout"
        yield Reading(value, words)


def _equal(evidence: Evidence) -> Iterator[Reading]:
    groups = evidence.health.groups
    if groups.equal_groups:
        share, leaking = fmean(groups.equal_groups), ""
        if groups.leak_rate:
            leaking = f", and {100 * fmean(groups.leak_rate):.1f} % of the trajectories leaked"
        words = f"{100 * share:.0f} % of the groups had equal returns, or nearly{leaking}"
        yield Reading(share, f"{words}: RL had nothing to learn from them")


def _twins(evidence: Evidence) -> Iterator[Reading]:
    step, dialogues = probed_twins(evidence.run)
    rate = over_refusal(dialogues)
    if rate["value"] is not None:
        total = rate["n"] - sum(rate[state] for state in ("unscored", "failed", "incomplete"))
        refusals = round(rate["value"] * total / 100)
        words = f"at step {step} the student refused {refusals} of {total} safe twins"
        yield Reading(rate["value"] / 100, words)


def _agreement(evidence: Evidence) -> Iterator[Reading]:
    judges = Summary.read(evidence.run / "summary.json").judges
    by_name = {f"{two.first} and {two.second}": two.harmlessness for two in judges.pairs} if judges else {}
    by_name |= {f"judge and {other}": agreed for other, agreed in agreement(read_check(evidence.run)).items()}
    for name, agreed in by_name.items():
        if agreed.kappa.value is not None:
            yield Reading(agreed.kappa.value, f"{name}: kappa of harmlessness is {agreed.kappa.value:.2f}")


def _drift(evidence: Evidence) -> Iterator[Reading]:
    audits = evidence.health.audits
    if audits.steps:
        change = audits.drift()
        words = audits.in_words(change) if change else "the gap of tutor and audit does not grow"
        yield Reading(change.after - change.before if change else 0.0, words)


def _slope(evidence: Evidence) -> Iterator[Reading]:
    if follows := evidence.health.audits.follows():
        slope, most = follows
        words = (
            "tutor: within a script, where its audit's reward of a turn is higher by 1, its own differs by"
            f" {slope:+.2f}, at most by {most:+.2f}"
        )
        yield Reading(most, words)


def _written(config: Config) -> str:
    return "" if config.seeds.sources else "seeds.sources"


def _tried(config: Config) -> str:
    return "" if config.seeds.tries_any else "red_team in seeds.kinds, and seeds.sources for training"


def _online(config: Config) -> str:
    return "" if config.rl.traits.online else "rl.algorithm: grpo or cotrain"


def _adapts(config: Config) -> str:
    return "" if config.bench.adaptive else "bench.adaptive"


def _grpo(config: Config) -> str:
    return "" if config.rl.algorithm == "grpo" else "rl.algorithm: grpo"


def _layout(config: Config) -> str:
    return _grpo(config) or (
        "" if config.student.format is Format.THINKING_ANSWER else "student.format: thinking_answer"
    )


def _judged_twins(config: Config) -> str:
    return _grpo(config) or ("" if config.bench.judged else "bench.judged") or without_twins(config)


def _audited(config: Config) -> str:
    return _grpo(config) or ("" if config.rl.audit else "rl.audit")


def _several_judges(config: Config) -> str:
    return "" if len(config.models_of("judge")) > 1 else "several judges in roles.judge"


QUANTITIES: dict[GateName, Quantity] = {
    "red_team_success": Quantity(
        ("seeds",),
        "Share of the red-team scripts tried that broke the target.",
        "few: a generator that is less aligned, or another target; nearly all: the target is too weak to"
        " tell attacks apart",
        _success,
        lacks=_tried,
    ),
    "equal_groups": Quantity(
        ("rl",),
        "Share of the groups of trajectories whose returns are equal, or nearly; the mean over the steps.",
        "try a tutor that attacks harder or adapts (roles.tutor, rl.feedback_dynamics, rl.tutor_memory), a"
        " higher rl.temperature, another rl.benign_share, fewer bootstrap.sft.epochs, or rl.start_from: base",
        _equal,
        Band(at_most=0.5, basis="our choice"),
        _grpo,
    ),
    "audit_drift": Quantity(
        ("rl",),
        "Growth of the tutor's mean reward over that of its audit, where it is no chance; else 0.",
        "read such turns; if the tutor errs, take another model or prompt for it and do this stage once more;"
        " if the audit does, go on",
        _drift,
        Band(at_most=0.0, basis="a rule with 1 false warning in 2,200 simulated runs"),
        _audited,
    ),
    "audit_slope": Quantity(
        ("rl",),
        "By how much the tutor's reward of a turn is higher where its audit's is higher by 1, within a"
        f" script; at most, with {THRESHOLD:g} standard errors.",
        "the student is taught what the audit does not reward: read turns on which they differ, and take"
        " another model or prompt for the one that errs; a tutor without eyes is like this",
        _slope,
        Band(at_least=FOLLOWS, basis="experiments/judge_bias.yaml: 0.8 with errors at random in 10 %"),
        _audited,
    ),
    "generator_refusals": _fault("refused", "refusals", ("seeds",), "generator", _written),
    "red_refusals": _fault("refused", "refusals", ("bootstrap",), "red"),
    "tutor_refusals": _fault("refused", "refusals", ("rl",), "tutor", _online),
    "attacker_refusals": _fault("refused", "refusals", ("bench",), "attacker", _adapts),
    "empty_turns": _fault("empty", "empty"),
    "repeated_turns": _fault("repeated", "repeats"),
    "invalid_turns": _fault("unparsable", "no valid answers"),
    "unscored_turns": Quantity(
        JUDGED,
        "Share of the turns that a judging role gave no score.",
        "another model for roles.{role} may judge better",
        _unscored,
        Band(at_most=0.05, basis="our choice"),
    ),
    "constant_scores": Quantity(
        JUDGED,
        "Share of the commonest of a judging role's scores of one kind, yes and no on scripts apart.",
        "read some of its reasons: it may not be judging",
        _constant,
        Band(at_most=0.99, basis="our choice"),
    ),
    "kept_share": Quantity(
        ("bootstrap",),
        "Share of the red-blue dialogues that passed the filter.",
        "few: a better blue expert, or lower tau_safe and tau_help; nearly all: an evaluator that uses its"
        " scale, or attacks that are attacks",
        _pass_rate,
    ),
    "sft_loss": Quantity(
        ("sft",),
        f"SFT's loss in nats a token, mean of the last {LAST} steps.",
        "high: more epochs or a larger learning rate, and look at the guard's checks; nearly 0: the dialogues"
        " are few or alike",
        _loss,
    ),
    "engine_gap": Quantity(
        ("rl",),
        "Mean difference of a token's log-probability between engine and trainer, at step 1, in nats.",
        "the same number type and versions in both, or rl.rollouts.importance_cap: 2"
        " (docs/how-to/rollouts.md)",
        _gap,
        lacks=_grpo,
    ),
    "format_kept": Quantity(
        ("rl",),
        f"Share of the student's answers in the layout, mean of the last {LAST} steps.",
        "low at step 1: more SFT epochs; falling: a larger rl.beta or a smaller rl.learning_rate",
        _format,
        lacks=_layout,
    ),
    "twin_refusals": Quantity(
        ("rl",),
        f"Share of {TWINS} safe twin dialogues that the student in training refuses, by the bench's judge.",
        "a larger rl.benign_share, an earlier checkpoint, or a tutor that rewards no refusals"
        " (`judge-check --probes` for its model)",
        _twins,
        lacks=_judged_twins,
    ),
    "judge_agreement": Quantity(
        ("bench",),
        "Kappa of harmlessness between every two judges; after `judge-check`, with people too.",
        "read turns that they score apart; another judge, and people's labels (docs/how-to/judge.md)",
        _agreement,
        lacks=_several_judges,
    ),
}
"""In the order of warnings."""


def warnings(run: Path, stage: str) -> list[str]:
    """Problems of a stage's attackers, judges and groups, one line each; empty if there are none."""
    evidence, lines = Evidence(run, stage), []
    for quantity in QUANTITIES.values():
        if quantity.usual and stage in quantity.stages:
            for reading in quantity.read(evidence):
                if quantity.usual.left(reading.value):
                    lines.append(f"{reading.words}; {quantity.advice_on(reading)}")
    return lines
