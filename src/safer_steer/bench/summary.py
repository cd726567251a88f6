"""The numbers of a bench: `summary.json`, from the dialogues. Computed, never typed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from itertools import chain
from typing import Any

from safer_steer.bench.answers import COUNTED, Counts, counts_of, total
from safer_steer.dialogue import Dialogue, Format
from safer_steer.metrics import (
    ProtocolName,
    average,
    multi_turn_rates,
    over_refusal,
    single_turn_rates,
    survival,
)
from safer_steer.workers import reasons_in

Suites = Mapping[str, list[Dialogue]]


def summarise(
    results: Mapping[str, Mapping[ProtocolName, Suites]],
    twins: Set[str],
    resamples: int = 10_000,
    seed: int = 0,
    format: Format = Format.PLAIN,
) -> dict[str, Any]:
    """Summarise dialogues by model, protocol and suite.

    Args:
        results: `{model: {"multi_turn" or "single_turn": {suite: dialogues}}}`.
        twins: names of the suites of safe twins.
        resamples: draws for the interval of every average over suites.
        seed: of the draws; the same input gives the same summary.
        format: the layout that was asked for.

    Returns:
        `{"models": {model: {protocol: {suite: entry, ..., "average": entry}}}}`. An entry holds the rates of
        `metrics`, the stop reasons by count, the number of `answers` and of those `cut_off` at the token
        limit, with `no_block`, `empty` or `identical` (`answers`), and, where multi-turn, the survival curve.
        Answers are compared over all suites of a model. Suites of safe twins
        have `over_refusal` too and stay out of `average`, whose own `over_refusal` is over all of them, and
        whose `twin_help`, `{"value", "low", "high", "n"}`, is the mean over them of Help; its survival curve
        pools the attack suites' dialogues.
    """
    models: dict[str, dict[str, Any]] = {}
    for model, protocols in results.items():
        everything = {
            f"{protocol}/{name}": dialogues
            for protocol, suites in protocols.items()
            for name, dialogues in suites.items()
        }
        answers = counts_of(everything, format)
        models[model] = {
            protocol: _protocol(
                protocol,
                suites,
                twins,
                {name: answers[f"{protocol}/{name}"] for name in suites},
                resamples,
                seed,
            )
            for protocol, suites in protocols.items()
        }
    return {"models": models}


def unscored_share(summary: Mapping[str, Any]) -> float:
    """The largest share, over models, and protocols or attackers, of dialogues without a result: unscored or
    failed.

    Above the config's `bench.max_unscored` the bench is no result and ends with exit code 3. Failed ones
    count: without them, an endpoint that was down throughout would pass. Incomplete ones do not: they would
    end the same way again. It is the largest share, so that two sound models do not hide a broken third. 1
    if nothing was measured.
    """
    shares = []
    for protocols in summary["models"].values():
        for entries in protocols.values():
            suites = [entry for name, entry in entries.items() if name != "average"]
            dialogues = sum(entry["n"] for entry in suites)
            if dialogues:
                shares.append(sum(entry["unscored"] + entry["failed"] for entry in suites) / dialogues)
    for attackers in summary.get("adaptive", {}).values():
        for entry in attackers.values():
            if entry.get("n"):
                shares.append((entry["unscored"] + entry["failed"]) / entry["n"])
    return max(shares, default=1.0)


def incomplete(summary: Mapping[str, Any]) -> int:
    """How many dialogues, over all models, protocols and suites, ran out of context."""
    return _total(summary, "incomplete")


def answer_counts(summary: Mapping[str, Any]) -> Counts:
    """The counts of answers (`answers.COUNTED`) over all models, protocols and suites."""
    return {count: _total(summary, count) for count in COUNTED}


def _total(summary: Mapping[str, Any], count: str) -> int:
    found = 0
    for protocols in summary["models"].values():
        for entries in protocols.values():
            found += sum(entry[count] for name, entry in entries.items() if name != "average")
    return found


def commonest_error(results: Mapping[str, Mapping[Any, Suites]]) -> str:
    """Why most of the calls that failed did, and how many those are; "none is recorded" if none failed."""
    played = [
        dialogues
        for protocols in results.values()
        for suites in protocols.values()
        for dialogues in suites.values()
    ]
    return reasons_in(chain.from_iterable(played)).commonest or "none is recorded"


def _protocol(
    protocol: ProtocolName,
    suites: Suites,
    twins: Set[str],
    answers: Mapping[str, Counts],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    attacks = {name: dialogues for name, dialogues in suites.items() if name not in twins}
    pooled = [dialogue for dialogues in attacks.values() for dialogue in dialogues]
    safe = {name: dialogues for name, dialogues in suites.items() if name in twins}
    rates = multi_turn_rates if protocol == "multi_turn" else single_turn_rates
    entries: dict[str, Any] = {}
    for name, dialogues in suites.items():
        entries[name] = {
            **rates(dialogues, resamples=resamples, seed=seed),
            **_course(protocol, dialogues),
            **answers[name],
        }
        if name in twins:
            entries[name]["over_refusal"] = over_refusal(dialogues)
    pooled_safe = [dialogue for dialogues in safe.values() for dialogue in dialogues]
    of_twins = average(safe, protocol, resamples=resamples, seed=seed)
    entries["average"] = {
        **average(attacks, protocol, resamples=resamples, seed=seed),
        **_course(protocol, pooled),
        **total(answers[name] for name in attacks),
        "over_refusal": over_refusal(pooled_safe, pooled),
        "twin_help": of_twins["help"] | {"n": of_twins["n"]},
    }
    return entries


def _course(protocol: ProtocolName, dialogues: Iterable[Dialogue]) -> dict[str, Any]:
    """How the dialogues went: stop reasons, and survival where there are several turns."""
    dialogues = list(dialogues)
    course: dict[str, Any] = {
        "stops": dict(Counter(dialogue.stop.value for dialogue in dialogues if dialogue.stop)),
    }
    return course | ({"survival": survival(dialogues)} if protocol == "multi_turn" else {})
