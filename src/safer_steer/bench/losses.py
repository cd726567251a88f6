"""What a bench has lost: dialogues without a result, questions without an answer, answers without words. It
is said in one line each, and too much of it is no result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safer_steer.bench.adaptive.results import state_of
from safer_steer.bench.capability import Answers, Capability, failed_share
from safer_steer.bench.results import Summary
from safer_steer.bench.summary import Suites, commonest_error, unscored_share
from safer_steer.errors import NoResult
from safer_steer.metrics import state

Say = Callable[[str], None]
ByModel = Mapping[str, Mapping[Any, Suites]]
"""Dialogues by model, protocol and suite."""


def say_lost(summary: Summary, say: Say) -> None:
    """Say how many answers were cut off or have nothing to see, and how many of the dialogues ran out of
    context."""
    answers, cut_off = summary.total("answers"), summary.total("cut_off")
    no_block, empty = summary.total("no_block"), summary.total("empty")
    if cut_off:
        say(
            f"{cut_off} of {answers} answers were cut off at the token limit and judged"
            " as they stand; raise roles.target.max_tokens, or student.max_turn_tokens for a run's own models"
        )
    if no_block or empty:
        say(
            f"of {answers} answers, {no_block} have no answer block and"
            f" {empty} are empty; their Help is 0, so a difference in Help may be one of layout:"
            " the table counts them by model"
        )
    if full := summary.total("incomplete"):
        say(
            f"{full} of {summary.total('n')} dialogues ran out of context and count as incomplete;"
            " for a run that has none, raise student.max_length (a served model's: at its server)"
            " or lower student.max_turn_tokens (a served model's: max_tokens)"
        )


def say_judges(summary: Summary, say: Say) -> None:
    """Say what each of several judges left without scores."""
    for name, one in summary.judges.each.items() if summary.judges else ():
        if one.unscored:
            say(
                f"the judge {name} gave no scores for {one.unscored} of {one.turns} turns, which the others"
                f" scored where they are half of the judges or more; the commonest cause:"
                f" {one.commonest_error}"
            )


def check_kept(results: ByModel, folder: Path, most: float, say: Say) -> None:
    """Say where the answers are. Raises `NoResult` if more than a share `most` of a model's dialogues of one
    protocol, or with attackers, failed; `results` has those too."""
    count = 0
    for model, kinds in results.items():
        for kind, suites in kinds.items():
            outcome_of = state_of if kind == "attackers" else state
            states = [outcome_of(dialogue) for dialogues in suites.values() for dialogue in dialogues]
            if (failed := states.count("failed")) > most * len(states):
                raise NoResult(
                    f"{failed} of {len(states)} dialogues failed; the commonest cause:"
                    f" {commonest_error({model: {kind: suites}})};"
                    " fix it and run the same command to play these dialogues again"
                )
            count += len(states)
    say(
        f"the answers of {count} dialogues are kept, none is scored; score them with"
        f" `safer-steer bench --judge-only {folder} --judge-model ... --judge-base-url ...`"
    )


def check_answered(capability: Capability, answers: Mapping[str, Answers], most: float) -> None:
    """Raises `NoResult` if more than a share `most` of a set's questions have no answer."""
    if (share := failed_share(capability)) > most:
        raise NoResult(
            f"{share:.1%} of the questions of a set in bench.capability have no answer, more than"
            f" bench.max_unscored = {most:.1%}; the commonest cause:"
            f" {commonest_error({name: {'single_turn': sets} for name, sets in answers.items()})};"
            " fix it and run the same command to ask them again"
        )


def check_scored(summary: Summary, results: ByModel, most: float) -> None:
    """Raises `NoResult` if more than a share `most` of a model's dialogues have no scores. `results` has
    those of attackers too."""
    if (share := unscored_share(summary)) > most:
        raise NoResult(
            f"{share:.1%} of a model's dialogues have no scores, more than bench.max_unscored ="
            f" {most:.1%}; the commonest cause: {commonest_error(results)};"
            " fix it and run the same command to play these dialogues again"
        )
