"""Whether the tutor's rewards in Stage III follow those of its audit (`rl.audit`), and whether they drift
apart.

A student that is trained on a tutor's scores learns what the tutor rewards wrongly, too. Then the tutor's
rewards rise above those of a second judge of the same turns. Two judges may differ from the start, and that
says nothing of the training; so the check looks at the *growth* of their gap.

It looks after every step, and may warn wrongly once in a run. Simulated were 2,200 runs of 10, 100 and 200
steps in which the gap does not grow: noise that the turns of a script share, judges that differ in 2 % of the
turns, in one script of ten, or in both directions. It warned in 1 of them (95 %
interval 0.0 to 0.3 %). tests/report/health/test_drift.py repeats a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from safer_steer.training.audit import Audited, audited_in, by_script, compared, following

if TYPE_CHECKING:
    import numpy as np

Groups = Sequence[Sequence[float]]
"""The values of a step, by script: values of one script may be alike, scripts are independent."""

LEAST = 0.02
"""The growth that is let pass, in units of the reward r_t' (0.2 points of a score of 1-10)."""
THRESHOLD = 3.5
"""Standard errors by which the growth must exceed `LEAST`."""
ENOUGH, SCRIPTS = 20, 12
"""Fewest turns, and fewest scripts, on either side of a change; and fewest scripts for `Audits.follows`."""
FOLLOWS = 0.25
"""The slope of `training.audit.following` below which the tutor does not teach what the audit rewards. With a
tutor that errs at random in 10 % of the turns it is 0.8, with an audit that does 0.4."""


@dataclass(frozen=True)
class Drift:
    """A growth that is no chance."""

    began: int
    """The first step (index into the steps given) after the change."""
    noticed: int
    """The step (index) at whose end the check gave its warning."""
    before: float
    """Mean value up to the change."""
    after: float
    """Mean value from then on, up to `noticed`."""


@dataclass
class Audits:
    """The turns that tutor and audit scored, by step (from 1)."""

    steps: dict[int, list[Audited]] = field(default_factory=dict)

    def note(self, trajectory: Mapping[str, Any]) -> None:
        """Count a row of rl/trajectories.jsonl. Its id begins with its step, from 0."""
        if turns := audited_in(trajectory):
            step = int(trajectory["id"].partition("-")[0]) + 1
            self.steps.setdefault(step, []).extend(turns)

    def parts(self, count: int) -> list[dict[str, Any]]:
        """What `compared` says of each part of the steps, in order, with its first and last step."""
        steps, rows = sorted(self.steps), []
        ends = [len(steps) * part // count for part in range(count + 1)]
        for start, end in pairwise(ends):
            if within := steps[start:end]:
                turns = list(chain.from_iterable(self.steps[step] for step in within))
                rows.append({"first": within[0], "last": within[-1], **compared(turns)})
        return rows

    def drift(self) -> Drift | None:
        """When the tutor's rewards rise above the audit's."""
        return self._by_step(lambda turn: turn.tutor - turn.audit)

    def follows(self, until: int | None = None) -> tuple[float, float] | None:
        """The slope of `training.audit.following` over all steps, or those up to `until`, and the
        end of its interval (`THRESHOLD` standard errors above it); None on fewer than `SCRIPTS` scripts."""
        steps = (turns for step, turns in self.steps.items() if until is None or step <= until)
        fit = following(chain.from_iterable(steps))
        if fit is None or fit.scripts < SCRIPTS:
            return None
        return fit.slope, fit.slope + THRESHOLD * fit.error

    def noticed(self) -> int | None:
        """The first step at whose end there is a warning: of a drift, or of rewards that do not follow."""
        change, slopes = self.drift(), ((step, self.follows(step)) for step in sorted(self.steps))
        first = next((step for step, follows in slopes if follows and follows[1] < FOLLOWS), None)
        return min(filter(None, (first, change.noticed if change else None)), default=None)

    def fall(self) -> Drift | None:
        """When the audit's own rewards fall, by the same rule."""
        return self._by_step(lambda turn: -turn.audit)

    def _by_step(self, value: Callable[[Audited], float]) -> Drift | None:
        """`drift` of a value of the turns, with the steps' numbers in place of indices."""
        numbers = sorted(self.steps)
        change = drift([by_script(self.steps[step], value) for step in numbers])
        return change and replace(change, began=numbers[change.began], noticed=numbers[change.noticed])

    def in_words(self, change: Drift) -> str:
        """Since when they drift apart, by how much, and in which turn most."""
        early, late = list[Audited](), list[Audited]()
        for step, turns in self.steps.items():
            (early if step < change.began else late).extend(turns if step <= change.noticed else ())
        worst = max(late, key=lambda turn: turn.tutor - turn.audit)
        own = [fmean(turn.audit for turn in turns) for turns in (early, late)]
        return (
            f"tutor: since step {change.began} it rewards more than its audit does: by {change.before:+.2f}"
            f" before and {change.after:+.2f} from there to step {change.noticed}, in which this was sure; by"
            f" the audit, the reward went from {own[0]:.2f} to {own[1]:.2f} (trajectory {worst.trajectory},"
            f" turn {worst.turn}, has the largest gap)"
        )


def drift(steps: Sequence[Groups]) -> Drift | None:
    """The first growth of the mean that is no chance, or None.

    After each step every earlier step is tried as the last one before a change: the mean after it must exceed
    the mean before it by `LEAST` and `THRESHOLD` standard errors, clustered by script. Each side's error is
    taken with its own spread or, if that is larger, with that of both sides together: one side alone may have
    met no turn on which the judges differ. The change with the largest excess is named.
    """
    if len(steps) < 2:
        return None
    import numpy as np  # imported here because it loads slowly

    sums = np.array([_sums(groups) for groups in steps]).cumsum(axis=0)
    for last in range(1, len(steps)):
        before, after = sums[:last], sums[last] - sums[:last]
        excess = _excess(before, after)
        best = int(excess.argmax())
        if excess[best] >= THRESHOLD:
            means = np.stack([before[best], after[best]])
            low, high = (means[:, 2] / means[:, 1]).tolist()
            return Drift(best + 1, last, low, high)
    return None


def _sums(groups: Groups) -> list[float]:
    """Groups, values, their total, and the groups' sums of n n, t t and n t for n values of total t."""
    sums = [0.0] * 6
    for group in groups:
        n, total = len(group), sum(group)
        for place, value in enumerate((1, n, total, n * n, total * total, n * total)):
            sums[place] += value
    return sums


def _excess(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """By how many standard errors the mean grows more than `LEAST`, for each change [changes, 6]; 0 where
    one side has too little."""
    import numpy as np

    sides = []
    for side in (before, after):
        groups, count, total, nn, tt, nt = (side + 0.0).T
        mean = total / np.maximum(count, 1)
        spread = np.maximum(0, tt - 2 * mean * nt + mean**2 * nn) * groups / np.maximum(groups - 1, 1)
        sides.append((groups, count, mean, spread))
    (_, ours, low, _), (_, theirs, high, _) = sides
    pooled = (sides[0][-1] + sides[1][-1]) / np.maximum(ours + theirs, 1)
    error = np.full(len(before), 1e-12)
    enough = np.ones(len(before), bool)
    for groups, count, _, spread in sides:
        error += np.maximum(spread / np.maximum(count, 1), pooled) / np.maximum(count, 1)
        enough &= (count >= ENOUGH) & (groups >= SCRIPTS)
    return np.where(enough, (high - low - LEAST) / np.sqrt(error), 0.0)
