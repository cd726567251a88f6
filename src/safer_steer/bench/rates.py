"""The parts of a summary: rates with their intervals, and what holds several of one kind."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

NONE = "–"
"""In place of a number that there is not."""


class Part(BaseModel):
    """A part of the file."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Rate(Part):
    """A rate (0-100), or a difference in points, with its interval; None without a scored dialogue."""

    value: float | None
    low: float | None
    high: float | None
    n: int | None = None
    """What it is over; None where the part that it belongs to says so."""

    def __str__(self) -> str:
        return self.printed(".1f", ".0f")

    def __neg__(self) -> Rate:
        """A difference the other way round."""
        value, low, high = (None if one is None else 0 - one for one in (self.value, self.high, self.low))
        return Rate(value=value, low=low, high=high, n=self.n)

    @property
    def signed(self) -> str:
        """A difference, printed."""
        return self.printed("+.1f", "+.1f")

    def by_name(self, name: str) -> dict[str, float]:
        """Value and interval as `name`, `name_low` and `name_high`; empty without a value."""
        ends = {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}
        return {key: value for key, value in ends.items() if value is not None}

    def printed(self, middle: str, end: str) -> str:
        """By format of the value and of the ends."""
        if self.value is None:
            return NONE
        if self.low is None or self.high is None:
            return f"{self.value:{middle}}"
        return f"{self.value:{middle}} [{self.low:{end}}, {self.high:{end}}]"


NO_RATE = Rate(value=None, low=None, high=None)


class _Turn(Part):
    turn: int


class TurnRate(Rate, _Turn):
    """A rate at one turn, from 1."""


class OverRefusal(Rate):
    """`metrics.over_refusal`."""

    unscored: int | None = None
    failed: int | None = None
    incomplete: int | None = None
    worst: Rate | None = None
    by_turn: list[TurnRate] | None = None


class Survival(Part):
    """`metrics.survival`: shares are 0-1."""

    turn: list[int]
    S: list[float]
    low: list[float]
    high: list[float]
    at_risk: list[int] | None = None
    median: int | None
    n: int | None = None
    failures: int | None = None
    failed_then_lost: int = 0
    """Dialogues that failed and then got no result; not in `n`."""


class Timing(Part):
    """`bench.timing.timing`."""

    miss: Rate
    early: Rate
    exact: Rate
    late: Rate
    never: Rate
    n: int
    """Dialogues that the rates are over."""
    harmless: int
    unmarked: int
    lost: int


class Lengths(Part):
    """Quartiles, in characters of the visible answer."""

    lower: float
    median: float
    upper: float


class ByRule(Part):
    """What answers are by rule, whether a judge scored them or not (`bench.answers.by_rule`)."""

    refused: Rate
    """Dialogues with a bare refusal; `n` of them have an answer."""
    bare: int
    """Answers that are one."""
    lengths: Lengths | None
    """None without an answer."""
    reasoning: int = 0
    """Answers with reasoning of their own in the reply, which no judge sees."""
    beside: int = 0
    """Answers with words beside thinking and answer, which no judge sees."""
