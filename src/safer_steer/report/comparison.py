"""What the models of a page are compared by: what each script came to, by row of the headline table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from safer_steer.bench.adaptive.results import ANY, breached_by_any
from safer_steer.bench.differences import Marks, marks_of
from safer_steer.bench.journals import JournalKind, kind_of, name_in
from safer_steer.bench.results import ON_ATTACKS, ON_TWINS
from safer_steer.config.changes import first_difference
from safer_steer.dialogue import Dialogue, Format
from safer_steer.report.main_table import Marked, breached_by, capability_on
from safer_steer.report.runs import ShownRun, at

Suites = dict[str, list[Dialogue]]


def marks_in(runs: Sequence[ShownRun]) -> Marked:
    """By label of a row and by the models' names on the page.

    Raises:
        UserError: an answer to a question is damaged; names file and line.
    """
    by_label: dict[str, dict[str, Marks]] = {}
    for run in runs:
        for model in run.summary.models:
            for label, marks in _of_model(run, model, _suites_of(run, model)).items():
                by_label.setdefault(label, {})[run.key(model)] = marks
    return by_label


def measured_otherwise(runs: Sequence[ShownRun]) -> Iterator[str]:
    """Which runs were measured by another protocol than the first that was measured, one line each, with what
    it differs in (docs/how-to/compare.md). Raises `UserError` if a protocol's file is damaged."""
    from safer_steer.bench import protocol  # it loads Pillow

    measured = [run for run in runs if run.summary.scored]
    for run in measured[1:]:
        first = measured[0]
        if run.summary.protocol != first.summary.protocol:
            files = [one.folder / protocol.FILE for one in (first, run)]
            reason: str | None = f"one of them has no {protocol.FILE}"
            if all(file.is_file() for file in files):
                there, here = (protocol.read(file).model_dump(mode="json") for file in files)
                reason = first_difference(there, here)
            if reason:  # else they differ in what earlier versions wrote besides
                yield f"{run.name} was not measured as {first.name} was: {reason}; do not compare their rates"


def _suites_of(run: ShownRun, model: str) -> dict[JournalKind, Suites]:
    suites: dict[JournalKind, Suites] = {"multi_turn": {}, "single_turn": {}, "adaptive": {}}
    for file, by_model in run.bench.items():
        if model in by_model:
            dialogues = [one.dialogue for one in by_model[model].values()]
            suites[kind_of(file)][name_in(file)] = dialogues
    return suites


def _of_model(run: ShownRun, model: str, suites: dict[JournalKind, Suites]) -> dict[str, Marks]:
    marks = {
        measure.label: marks_of(measure, suites[measure.protocol]) for measure in (*ON_ATTACKS, *ON_TWINS)
    }
    entries = run.summary.adaptive.get(model, {})
    attackers = {name: tries for name, tries in suites["adaptive"].items() if name in entries}
    for attacker, tries in attackers.items():
        marks[breached_by(attacker)] = {attacker: breached_by_any([tries])}
    if ANY in entries:
        marks[breached_by(ANY)] = {ANY: breached_by_any(attackers.values())}
    from safer_steer.bench.capability import right  # they load Pillow
    from safer_steer.bench.questions import answers_of

    plain = at(run.config, "student", "format") == Format.PLAIN
    for name, answers in answers_of(run.folder, model) if run.summary.capability else ():
        marks[capability_on(name)] = {name: right(answers, Format.PLAIN if plain else Format.THINKING_ANSWER)}
    return {label: of_row for label, of_row in marks.items() if of_row}
