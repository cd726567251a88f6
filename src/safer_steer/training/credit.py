"""Credit by turn: what each turn of a trajectory adds to its return, against its siblings
(docs/explanation/method.md, "Credit by turn"). Pure functions on lists, without torch.

Differences from the trajectory's advantage (`rewards.group_advantages`): what turns before t have settled is
left out of turn t's credit, and the baseline is the mean over the *other* trajectories that reached turn t.
Both leave the gradient's expectation as it is and lower its variance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from safer_steer.rewards import FORMS, TCSRForm, tcsr

SETTLED: dict[TCSRForm, Callable[[Sequence[float], float], float]] = {
    "min_mean": lambda earlier, alpha: alpha * min(earlier),
    "running": FORMS["running"],
    "mean": lambda earlier, alpha: 0.0,
    "min": FORMS["min"],
}
"""The part of the return that the rewards r_1 ... r_{t-1} before turn t settle, by form; 0 before turn 1.

Any function of these rewards alone may stand here: turn t's answer cannot change them, so taking it from the
return leaves the expected gradient as it is. A mean has no such part, since its divisor, the number of turns,
is not settled before the dialogue has ended. For the sum `running`, it is the sum so far.
"""


def returns_to_go(rewards: Sequence[float], alpha: float = 0.3, form: TCSRForm = "min_mean") -> list[float]:
    """G_t for every turn: the return R minus what turns before t have settled (`SETTLED`). Raises
    `ValueError` as `rewards.tcsr`.

    - `min_mean`: alpha * (min r - min_{j<t} r_j) + (1 - alpha) * mean r, with the empty minimum 0;
    - `running`: the sum over j >= t of r~_j (docs/explanation/method.md, "TCSR");
    - `mean`: mean r at every turn; `min`: min r - min_{j<t} r_j.

    The first is the whole return R."""
    whole = tcsr(rewards, alpha, form)
    settled = [SETTLED[form](rewards[:turn], alpha) for turn in range(1, len(rewards))]
    return [whole, *(whole - part for part in settled)]


def turn_advantages(group: Sequence[Sequence[float] | None]) -> list[list[float] | None]:
    """A_{k,t} = G_{k,t} - the mean of G_t over the other trajectories of the seed that reached turn t.

    Args:
        group: the returns to go of one seed's trajectories; None for one that is unscored.

    Returns:
        One advantage for each turn. An unscored trajectory stays None and is in no mean. Where no other
        reached turn t, it is the trajectory's, G_{k,1} - the mean of G_1 over the others: what was settled
        before t and anything of the others may be added. (No advantage there would be biased: it scales the
        turn's gradient by the chance that another gets there.) A trajectory that is scored alone has nothing
        to be compared with; its advantages are 0.
    """
    return [
        None if own is None else _against(own, [*group[:place], *group[place + 1 :]])
        for place, own in enumerate(group)
    ]


def _against(own: Sequence[float], others: Sequence[Sequence[float] | None]) -> list[float]:
    scored = [other for other in others if other]
    if not scored:
        return [0.0] * len(own)
    advantages = []
    for turn, value in enumerate(own):
        there = [other[turn] for other in scored if turn < len(other)]
        whole = own[0] - fmean(other[0] for other in scored)
        advantages.append(value - fmean(there) if there else whole)
    return advantages
