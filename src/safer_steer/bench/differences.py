"""By how much two models differ: what each script came to, and the difference of a rate, paired by script.

Differences are computed from the dialogues, for tables and page; `intervals.paired` has the interval. Suites
are averaged as in `summary.json`, and each attacker that adapts and each set of questions is one suite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from safer_steer.bench.rates import Rate
from safer_steer.bench.results import ON_TWINS, Measure
from safer_steer.bench.timing import Moment, marks_of_moment
from safer_steer.dialogue import Dialogue, Kind
from safer_steer.intervals import paired
from safer_steer.metrics import Criterion, averaged, outcomes

Marks = Mapping[str, Mapping[str, float]]
"""By suite and script, question or intent: 1 if it passes, 0 if not, or a share; only those with a result."""
CRITERIA: dict[str, Criterion] = {
    **{"safe": "safe", "help": "help", "joint": "joint"},
    **{"over_refusal": "refused", "twin_help": "help"},
}
"""By name of a measure; the others are moments of `bench.timing`."""


def marks_of(measure: Measure, suites: Mapping[str, Sequence[Dialogue]]) -> Marks:
    """What a model's dialogues came to, on the suites that the measure's rate is taken over.

    Args:
        suites: the dialogues of all suites of the measure's protocol, attacks and safe twins.
    """
    moment: Moment | None = next((one for one in get_args(Moment) if one == measure.name), None)
    marks: dict[str, Mapping[str, float]] = {}
    for suite, dialogues in averaged(suites).items():
        if all(dialogue.kind is Kind.BENIGN for dialogue in dialogues) is (measure in ON_TWINS):
            if moment is None:
                marks[suite] = outcomes(dialogues, CRITERIA[measure.name], measure.protocol)
            elif when := marks_of_moment(dialogues, moment):  # as the rates, without suites that have none
                marks[suite] = when
    if measure.name == "over_refusal":  # the rate is of all twins together
        pooled = {f"{suite} {id}": mark for suite, of_suite in marks.items() for id, mark in of_suite.items()}
        return {"": pooled} if marks else {}
    return marks


def difference(ours: Marks, theirs: Marks) -> Rate:
    """`ours` - `theirs` in points, over the suites and scripts that have a result for both; `n` is how many
    scripts these are."""
    suites = []
    for suite in ours:
        if suite in theirs:
            one, other = ours[suite], theirs[suite]
            suites.append([one[id] - other[id] for id in one if id in other])
    return Rate.model_validate(paired(*suites) | {"n": sum(map(len, suites))})
