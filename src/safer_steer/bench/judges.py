"""What several judges said of one bench: each one's rates alone, what it left without scores, and how far
every two agree. All from the verdicts that the dialogues keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from itertools import combinations

from safer_steer.bench.adaptive.results import all_turns
from safer_steer.bench.agreement import Pair, compared
from safer_steer.bench.rates import Rate
from safer_steer.bench.results import ON_ATTACKS, ON_TWINS, Judges, OneJudge, TwoJudges
from safer_steer.bench.summary import Suites, summarise
from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Turn, visible_answer
from safer_steer.files.meta import OneVerdict
from safer_steer.metrics import ProtocolName
from safer_steer.workers import Reasons

Scripted = Mapping[str, Mapping[ProtocolName, Suites]]
"""The suites' dialogues, by model, protocol and suite."""
Place = tuple[str, int]
"""A dialogue, and a turn of it in the order in which they were said, from 1."""


def judges_summary(
    config: Config, scripted: Scripted, attacked: Mapping[str, Suites], twins: Set[str]
) -> Judges | None:
    """The key `judges` of `summary.json`; None with one judge.

    Rates are of the suites' dialogues. Counts and agreement are of all turns, those to attackers that adapt
    and those taken back included.

    Args:
        attacked: the attackers' dialogues, by model and attacker.
        twins: names of the suites of safe twins.
    """
    names = list(config.models_of("judge"))
    if len(names) < 2:
        return None
    turns = dict(_turns(scripted, attacked))
    pairs = [_two(first, second, turns, config) for first, second in combinations(names, 2)]
    return Judges(
        joined_by=config.bench.verdict,
        each={name: _one(name, turns, scripted, twins, config) for name in names},
        pairs=[pair for pair in pairs if pair],
    )


def _turns(scripted: Scripted, attacked: Mapping[str, Suites]) -> Iterator[tuple[Place, Turn]]:
    for model, protocols in scripted.items():
        for kind, suites in [*protocols.items(), ("attackers", attacked.get(model, {}))]:
            for suite, dialogues in suites.items():
                for dialogue in dialogues:
                    for number, (_, turn, _) in enumerate(all_turns(dialogue), 1):
                        yield (f"{model}/{kind}/{suite}/{dialogue.id}", number), turn


def _of(turn: Turn, judge: str) -> OneVerdict:
    """A judge's verdict; empty where there is none."""
    verdicts: Mapping[str, OneVerdict] = turn.meta.get("verdicts", {})
    return verdicts.get(judge, {})


def _one(
    judge: str, turns: Mapping[Place, Turn], scripted: Scripted, twins: Set[str], config: Config
) -> OneJudge:
    verdicts = [_of(turn, judge) for turn in turns.values()]
    missing = Reasons(verdict.get("unscored", "") for verdict in verdicts if "scores" not in verdict)
    rates = _rates(judge, scripted, twins, config)
    return OneJudge(turns=len(turns), unscored=missing.total, commonest_error=missing.commonest, rates=rates)


def _rates(
    judge: str, scripted: Scripted, twins: Set[str], config: Config
) -> dict[str, dict[ProtocolName, dict[str, Rate]]]:
    alone: dict[str, dict[ProtocolName, dict[str, list[Dialogue]]]] = {}
    for model, protocols in scripted.items():
        for protocol, suites in protocols.items():
            rescored = {suite: [_by(judge, one) for one in dialogues] for suite, dialogues in suites.items()}
            alone.setdefault(model, {})[protocol] = rescored
    summary = summarise(alone, twins, config.bench.resamples, config.seed, config.student.format)
    rates: dict[str, dict[ProtocolName, dict[str, Rate]]] = {}
    for measure in (*ON_ATTACKS, *ON_TWINS):
        for model in summary.models:
            rate = measure.of(summary.average(model, measure.protocol))
            if rate and rate.value is not None:
                of_protocol = rates.setdefault(model, {}).setdefault(measure.protocol, {})
                of_protocol[measure.name] = Rate(value=rate.value, low=rate.low, high=rate.high)
    return rates


def _by(judge: str, dialogue: Dialogue) -> Dialogue:
    """The dialogue with one judge's scores."""
    return dialogue.with_scores(_of(turn, judge).get("scores") for turn in dialogue.turns)


def _two(first: str, second: str, turns: Mapping[Place, Turn], config: Config) -> TwoJudges | None:
    """None if they scored no turn in common."""
    pairs = []
    for (dialogue, number), turn in turns.items():
        one, other = _of(turn, first).get("scores"), _of(turn, second).get("scores")
        if one and other:
            length = len(visible_answer(turn.assistant or "", config.student.format))
            pairs.append(Pair(dialogue, number, length, one, other))
    if not pairs:
        return None
    return TwoJudges.model_validate({"first": first, "second": second, **compared(pairs, config.seed)})
