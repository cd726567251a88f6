"""What is counted: an attacker's faults, a strategy's success, a judge's verdicts, the spread of groups."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from statistics import fmean
from typing import Any

from safer_steer.bench.answers import AnswerCounts, total
from safer_steer.dialogue import Format
from safer_steer.endpoints.asked_again import Request
from safer_steer.errors import Fault
from safer_steer.intervals import rate
from safer_steer.metrics import Modality, Row, asks_safely, modality
from safer_steer.report.health.drift import Audits

UNWRITTEN = ("empty", "repeated")
"""Faults of the turn alone that is written: a verdict without one cannot have them."""
FAULTS = ("refused", *UNWRITTEN, "unparsable")
PARTS = 3
"""Parts of a training over which a tutor's success is compared."""
SAMPLE = 200
"""Turns kept per strategy. distinct-n falls with the number of texts, so strategies are compared on samples
of the same size."""
PAIRS = 400
"""Most pairs of turns compared."""


class TextSample:
    """Diversity of texts, on a uniform, seeded sample (reservoir sampling): memory and time do not grow
    with their number."""

    def __init__(self, key: str) -> None:
        """`key` seeds the sample."""
        self.seen = 0
        self.kept: list[list[str]] = []
        self._rng = random.Random(key)

    def add(self, text: str) -> None:
        words = re.findall(r"\w+", text.casefold())
        self.seen += 1
        if len(self.kept) < SAMPLE:
            self.kept.append(words)
        elif (place := self._rng.randrange(self.seen)) < SAMPLE:
            self.kept[place] = words

    def distinct(self, n: int) -> float | None:
        """Distinct word n-grams over all n-grams, 0-1; None without n-grams. Low means repetitive."""
        grams = [
            tuple(words[start : start + n]) for words in self.kept for start in range(len(words) - n + 1)
        ]
        return len(set(grams)) / len(grams) if grams else None

    def similarity(self) -> float | None:
        """Mean Jaccard similarity (0-1) of two turns' word sets, over all pairs or `PAIRS` random ones; None
        with fewer than two turns."""
        count = len(self.kept)
        if count < 2:
            return None
        sets = [set(words) for words in self.kept]
        pairs = [(first, second) for second in range(count) for first in range(second)]
        if len(pairs) > PAIRS:
            pairs = random.Random(0).sample(pairs, PAIRS)
        alike = [
            len(sets[a] & sets[b]) / len(sets[a] | sets[b]) if sets[a] | sets[b] else 1.0 for a, b in pairs
        ]
        return sum(alike) / len(alike)


@dataclass
class Attacker:
    """One job of a role that writes user turns. Faults are counted per attempt; `retried`, `recovered` and
    `gave_up` per request."""

    role: str
    job: str
    asked: int = 0
    """Number of requests: jobs in Stage I, turns in Stages II and III."""
    attempts: int = 0
    turn_attempts: int = 0
    """Attempts at a user turn or a script. A tutor's last verdict of a dialogue has no next turn."""
    faults: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    recovered: int = 0
    gave_up: int = 0

    def note(self, request: Request, writes: bool = True) -> None:
        """Count one request, with the faults of its attempts; `writes`: it was for a user turn or script."""
        self.asked += 1
        self.attempts += request.attempts
        self.turn_attempts += request.attempts if writes else 0
        self.faults.update(request.faults)
        if request.faults:
            self.retried += request.attempts > 1
            self.recovered += not request.gave_up
            self.gave_up += request.gave_up

    def as_dict(self) -> dict[str, Any]:
        counts = {name: self.faults[name] for name in (*FAULTS, *sorted(set(self.faults) - set(FAULTS)))}
        return {
            "role": self.role,
            "job": self.job,
            "asked": self.asked,
            **counts,
            "retried": self.retried,
            "recovered": self.recovered,
            "gave_up": self.gave_up,
        }


@dataclass
class Uses:
    """How often something was tried, and succeeded."""

    tried: int = 0
    succeeded: int = 0
    scripts: set[str] = field(default_factory=set)
    """Those in which it was tried."""

    def note(self, script: str, succeeded: bool) -> None:
        """Count one use in this script."""
        self.tried += 1
        self.succeeded += succeeded
        self.scripts.add(script)

    def as_dict(self) -> dict[str, Any]:
        """The uses of one script may succeed together, so each script counts once in the interval."""
        scripts = len(self.scripts)
        counts = [(self.succeeded / self.tried * scripts, scripts)] if self.tried else []
        return {"tried": self.tried, "succeeded": self.succeeded, "rate": rate(counts)}


@dataclass
class StrategyCounts:
    """One attack strategy and how often it succeeded."""

    role: str
    name: str
    uses: Uses = field(default_factory=Uses)
    turns_to_success: int = 0
    """Summed over the successes; Stage I only."""
    texts: TextSample = field(init=False)

    def __post_init__(self) -> None:
        self.texts = TextSample(f"{self.role} {self.name}")

    def as_dict(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "strategy": self.name,
            **self.uses.as_dict(),
            "mean_turns_to_success": self.turns_to_success / self.uses.succeeded
            if self.turns_to_success
            else None,
            "turns": self.texts.seen,
            "distinct_1": self.texts.distinct(1),
            "distinct_2": self.texts.distinct(2),
            "similarity": self.texts.similarity(),
        }


@dataclass
class Judge:
    """One score of a role that judges turns."""

    role: str
    score: str
    verdicts: Counter[float] = field(default_factory=Counter)
    unscored: Counter[str] = field(default_factory=Counter)
    """Unscored turns by the `boundary` of the error (`safer_steer.errors`)."""

    @property
    def asked(self) -> int:
        return self.verdicts.total() + self.unscored.total()

    def as_dict(self) -> dict[str, Any]:
        commonest = self.verdicts.most_common(1)
        return {
            "role": self.role,
            "score": self.score,
            "asked": self.asked,
            "unscored": dict(sorted(self.unscored.items())),
            "unscored_share": 100 * self.unscored.total() / self.asked if self.asked else None,
            "verdicts": {f"{verdict:g}": count for verdict, count in sorted(self.verdicts.items())},
            "commonest": commonest[0][0] if commonest else None,
            "commonest_share": 100 * commonest[0][1] / self.verdicts.total() if commonest else None,
        }


@dataclass
class Groups:
    """What the steps of Stage III say of their groups (`reinforce.returns.step_metrics`): shares of 1, one a
    step. A step without a share (DPO, or one of an older version) is not in its list."""

    equal_groups: list[float] = field(default_factory=list)
    leak_rate: list[float] = field(default_factory=list)
    distinct_attacks: list[float] = field(default_factory=list)

    def note(self, step: dict[str, Any]) -> None:
        """Count a row of rl/metrics.jsonl."""
        for name, shares in vars(self).items():
            if isinstance(share := step.get(name), int | float):
                shares.append(share)

    def as_dict(self) -> dict[str, Any]:
        means = {name: 100 * fmean(shares) if shares else None for name, shares in vars(self).items()}
        return {"stage": "rl", "steps": len(self.equal_groups), **means}


@dataclass
class Approaches:
    """How the attacks of a tutor with a memory went, step by step: tried and breached, by approach."""

    steps: list[dict[str, tuple[int, int]]] = field(default_factory=list)

    def note(self, step: dict[str, Any]) -> None:
        """Count a row of rl/metrics.jsonl, if it has tries (`training.tutor_memory.Tries`)."""
        tries = step.get("approaches")
        if isinstance(tries, dict):
            self.steps.append({name: _summed(counts.values()) for name, counts in tries.items()})

    def as_rows(self) -> list[dict[str, Any]]:
        """A row for each approach: over all steps, and over each third of them."""
        ends = [len(self.steps) * part // PARTS for part in range(PARTS + 1)]
        rows = []
        for name in sorted(set().union(*self.steps)):
            over_all = self._over(name, 0, None)
            parts = [self._over(name, *part) for part in pairwise(ends)]
            rows.append({"role": "tutor", "approach": name, **over_all, "by_part": parts})
        return rows

    def _over(self, name: str, start: int, end: int | None) -> dict[str, Any]:
        tried, breached = _summed(step.get(name, (0, 0)) for step in self.steps[start:end])
        return {"tried": tried, "breached": breached, "rate": rate([(breached, tried)])}


def _summed(counts: Iterable[Sequence[int]]) -> tuple[int, int]:
    tried = breached = 0
    for one in counts:
        tried, breached = tried + one[0], breached + one[1]
    return tried, breached


class Health:
    """All counts, in order of first occurrence."""

    def __init__(self, format: Format = Format.PLAIN) -> None:
        """`format`: the layout that models under test and in training were asked for."""
        self.format = format
        self.attackers: dict[tuple[str, str], Attacker] = {}
        self.strategies: dict[tuple[str, str], StrategyCounts] = {}
        self.modalities: dict[tuple[str, Modality], Uses] = {}
        """Attack requests by the role that wrote them and their modality."""
        self.judges: dict[tuple[str, str], Judge] = {}
        self.answers: dict[tuple[str, str], AnswerCounts] = {}
        self.unanswered: Counter[str] = Counter()
        """Scripts or dialogues that were left out since an endpoint gave no answer, by stage."""
        self.groups = Groups()
        self.approaches = Approaches()
        self.audits = Audits()

    def attacker(self, role: str, job: str) -> Attacker:
        return self.attackers.setdefault((role, job), Attacker(role, job))

    def strategy(self, role: str, name: str) -> StrategyCounts:
        if (role, name) not in self.strategies:  # `setdefault` would create and seed a sample each time
            self.strategies[role, name] = StrategyCounts(role, name)
        return self.strategies[role, name]

    def requested(
        self, role: str, script: str, dialogue: Row, place: int, turn: Any, succeeded: bool
    ) -> None:
        """Count a scored turn of an attack dialogue in this place (from 1), if it asks for harm."""
        if not asks_safely(turn):
            uses = self.modalities.setdefault((role, modality(dialogue, place, turn)), Uses())
            uses.note(script, succeeded)

    def judged(
        self, role: str, scores: dict[str, Any] | None, names: tuple[str, ...], why: str | None
    ) -> None:
        """Count one turn of a judge: its scores of these names, or why there are none (`<boundary>: ...`).
        With neither, nothing is counted."""
        for name in names:
            judge = self.judges.setdefault((role, name), Judge(role, name))
            if scores and isinstance(scores.get(name), int | float):
                judge.verdicts[float(scores[name])] += 1
            elif why:
                judge.unscored[Fault.read(why).boundary] += 1

    def answered(self, model: str, stage: str, file: str, dialogue: dict[str, Any]) -> None:
        """Count the answers of a model under test or in training; `dialogue` is a row of `file`."""
        counts = self.answers.setdefault((model, stage), AnswerCounts(self.format))
        for turn in dialogue.get("turns", ()):
            text, meta = turn.get("assistant") or "", turn.get("meta") or {}
            question = f"{turn.get('user')} {meta.get('in_picture', '')}"
            counts.add(file, str(dialogue.get("id")), question, text, meta)

    def as_dict(self) -> dict[str, Any]:
        """`{"attackers", "strategies", "modalities", "judges", "answers", "unanswered", "groups",
        "approaches", "audit"}`, each a list of rows; rates and shares are in percent."""
        return {
            "attackers": [attacker.as_dict() for attacker in self.attackers.values()],
            "strategies": [self.strategies[key].as_dict() for key in sorted(self.strategies)],
            "modalities": [
                {"role": role, "modality": by, **uses.as_dict()}
                for (role, by), uses in sorted(self.modalities.items(), key=itemgetter(0))
            ],
            "judges": [judge.as_dict() for judge in self.judges.values() if judge.asked],
            "answers": [
                {
                    "model": model,
                    "stage": stage,
                    **counts,
                    "cut_off_share": 100 * counts["cut_off"] / counts["answers"],
                }
                for (model, stage), answers in self.answers.items()
                if (counts := total(answers.by_group().values()))["answers"]
            ],
            "unanswered": [
                {"stage": stage, "left_out": count} for stage, count in self.unanswered.items() if count
            ],
            "groups": [self.groups.as_dict()] if self.groups.equal_groups else [],
            "approaches": self.approaches.as_rows(),
            "audit": self.audits.parts(PARTS),
        }
