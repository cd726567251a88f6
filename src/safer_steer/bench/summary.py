"""The numbers of a bench: `summary.json`, from the dialogues. Computed, never typed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from itertools import chain
from typing import Any

from safer_steer.bench.answers import Counts, counts_of, total
from safer_steer.bench.results import Attacked, Model, Protocol, Suite, Summary, total_of
from safer_steer.dialogue import Dialogue, Format
from safer_steer.metrics import (
    AVERAGE,
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
) -> Summary:
    """Summarise dialogues by model, protocol and suite.

    Args:
        results: `{model: {"multi_turn" or "single_turn": {suite: dialogues}}}`.
        twins: names of the suites of safe twins.
        resamples: draws for the interval of every average over suites.
        seed: of the draws; the same input gives the same summary.
        format: the layout that was asked for.

    Answers are compared over all suites of a model. Suites of safe twins stay out of the average, whose
    survival curve pools the attack suites' dialogues.
    """
    models: dict[str, Model] = {}
    for model, protocols in results.items():
        everything = {
            f"{protocol}/{name}": dialogues
            for protocol, suites in protocols.items()
            for name, dialogues in suites.items()
        }
        answers = counts_of(everything, format)
        models[model] = {
            protocol: _protocol(protocol, suites, twins, answers, resamples, seed)
            for protocol, suites in protocols.items()
        }
    return Summary(models=models)


def unscored_share(summary: Summary) -> float:
    """The largest share, over models, and protocols or attackers, of dialogues without a result: unscored or
    failed.

    Above the config's `bench.max_unscored` the bench is no result and ends with exit code 3. Failed ones
    count: without them, an endpoint that was down throughout would pass. Incomplete ones do not: they would
    end the same way again. It is the largest share, so that two sound models do not hide a broken third. 1
    if nothing was measured.
    """
    parts: list[list[Suite | Attacked]] = [
        [*protocol.suites.values()] for model in summary.models.values() for protocol in model.values()
    ]
    parts += [[entry] for by_model in summary.attacks.values() for entry in by_model.values()]
    shares = [
        total_of(part, "unscored", "failed") / dialogues
        for part in parts
        if (dialogues := total_of(part, "n"))
    ]
    return max(shares, default=1.0)


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
) -> Protocol:
    attacks = {name: dialogues for name, dialogues in suites.items() if name not in twins}
    pooled = [dialogue for dialogues in attacks.values() for dialogue in dialogues]
    safe = {name: dialogues for name, dialogues in suites.items() if name in twins}
    pooled_safe = [dialogue for dialogues in safe.values() for dialogue in dialogues]
    rates = multi_turn_rates if protocol == "multi_turn" else single_turn_rates
    entries = {
        name: Suite.model_validate(
            {
                **rates(dialogues, resamples=resamples, seed=seed),
                **_course(protocol, dialogues),
                **answers[f"{protocol}/{name}"],
                **({"over_refusal": over_refusal(dialogues)} if name in twins else {}),
            }
        )
        for name, dialogues in suites.items()
    }
    of_twins = average(safe, protocol, resamples=resamples, seed=seed)
    of_all = {
        **average(attacks, protocol, resamples=resamples, seed=seed),
        **_course(protocol, pooled),
        **total(answers[f"{protocol}/{name}"] for name in attacks),
        "over_refusal": over_refusal(pooled_safe, pooled),
        "twin_help": of_twins["help"] | {"n": of_twins["n"]},
    }
    return Protocol(entries | {AVERAGE: Suite.model_validate(of_all)})


def _course(protocol: ProtocolName, dialogues: Iterable[Dialogue]) -> dict[str, Any]:
    """How the dialogues went: stop reasons, and survival where there are several turns."""
    dialogues = list(dialogues)
    course: dict[str, Any] = {
        "stops": dict(Counter(dialogue.stop.value for dialogue in dialogues if dialogue.stop)),
    }
    return course | ({"survival": survival(dialogues)} if protocol == "multi_turn" else {})
