"""The numbers of a bench: `summary.json`, from the dialogues. Computed, never typed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from itertools import chain
from typing import Any

from safer_steer.bench.answers import Counts, by_rule, counts_of, total
from safer_steer.bench.results import Attacked, Model, Protocol, Suite, Summary, total_of
from safer_steer.bench.timing import timing
from safer_steer.dialogue import Dialogue, Format
from safer_steer.metrics import (
    AVERAGE,
    ProtocolName,
    average,
    averaged,
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
    survival curve pools the attack suites' dialogues; and so do typographic variants.
    """
    models: dict[str, Model] = {}
    draws = {"resamples": resamples, "seed": seed}
    for model, protocols in results.items():
        everything = {
            f"{protocol}/{name}": dialogues
            for protocol, suites in protocols.items()
            for name, dialogues in suites.items()
        }
        answers = counts_of(everything, format)
        models[model] = {
            protocol: _protocol(protocol, suites, twins, answers, format, draws)
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
    by_suite = [
        dialogues
        for protocols in results.values()
        for suites in protocols.values()
        for dialogues in suites.values()
    ]
    return reasons_in(chain.from_iterable(by_suite)).commonest or "none is recorded"


def _protocol(
    protocol: ProtocolName,
    suites: Suites,
    twins: Set[str],
    answers: Mapping[str, Counts],
    format: Format,
    draws: dict[str, int],
) -> Protocol:
    """`draws` are the settings of the intervals."""
    of_average = averaged(suites)
    attacks = {name: dialogues for name, dialogues in of_average.items() if name not in twins}
    pooled = list(chain.from_iterable(attacks.values()))
    safe = {name: dialogues for name, dialogues in of_average.items() if name in twins}
    pooled_safe = list(chain.from_iterable(safe.values()))
    entries = {
        name: Suite.model_validate(
            {
                **_rates(protocol)(dialogues, **draws),
                **_course(protocol, dialogues),
                **answers[f"{protocol}/{name}"],
                **({"over_refusal": over_refusal(dialogues)} if name in twins else {}),
                "timing": _timing(protocol, {} if name in twins else {name: dialogues}, draws),
                "by_rule": by_rule([dialogues], format, **draws),
            }
        )
        for name, dialogues in suites.items()
    }
    of_twins = average(safe, protocol, **draws)
    of_all = {
        **average(attacks, protocol, **draws),
        **_course(protocol, pooled),
        **total(answers[f"{protocol}/{name}"] for name in attacks),
        "over_refusal": over_refusal(pooled_safe, pooled),
        "twin_help": of_twins["help"] | {"n": of_twins["n"]},
        "timing": _timing(protocol, attacks, draws),
        "by_rule": by_rule(attacks.values(), format, **draws),
        "categories": _by_category(protocol, pooled, pooled_safe, draws),
    }
    return Protocol(entries | {AVERAGE: Suite.model_validate(of_all)})


def _rates(protocol: ProtocolName) -> Callable[..., dict[str, Any]]:
    return multi_turn_rates if protocol == "multi_turn" else single_turn_rates


def _timing(protocol: ProtocolName, attacks: Suites, draws: dict[str, int]) -> dict[str, Any] | None:
    return timing(attacks, **draws) if protocol == "multi_turn" else None


def _by_category(
    protocol: ProtocolName, attacks: Iterable[Dialogue], twins: Iterable[Dialogue], draws: dict[str, int]
) -> dict[str, Any]:
    """The rates by category of harm, in alphabetical order; those without one last."""
    pairs: dict[str, tuple[list[Dialogue], list[Dialogue]]] = {}
    for place, dialogues in enumerate((attacks, twins)):
        for dialogue in dialogues:
            pairs.setdefault(dialogue.category, ([], []))[place].append(dialogue)
    if not any(pairs):
        return {}
    categories: dict[str, Any] = {}
    for name in sorted(pairs, key=lambda name: (not name, name)):
        attacked, safe = pairs[name]
        categories[name] = _rates(protocol)(attacked, **draws)
        if safe:
            refused, helped = over_refusal(safe), _rates(protocol)(safe, **draws)["help"]
            del refused["by_turn"]
            categories[name] |= {"over_refusal": refused, "twin_help": helped | {"n": len(safe)}}
    return categories


def _course(protocol: ProtocolName, dialogues: Iterable[Dialogue]) -> dict[str, Any]:
    """How the dialogues went: stop reasons, and survival where there are several turns."""
    dialogues = list(dialogues)
    course: dict[str, Any] = {
        "stops": dict(Counter(dialogue.stop.value for dialogue in dialogues if dialogue.stop)),
    }
    return course | ({"survival": survival(dialogues)} if protocol == "multi_turn" else {})
