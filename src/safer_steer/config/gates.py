"""The section `gates` of the configuration: bands that measured quantities of a run must keep."""

from __future__ import annotations

from math import inf, isnan
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, field_validator, model_validator

from safer_steer.config.kinds import Free, Section

GateName = Literal[
    "red_team_success",
    "generator_refusals",
    "red_refusals",
    "tutor_refusals",
    "attacker_refusals",
    "empty_turns",
    "repeated_turns",
    "invalid_turns",
    "unscored_turns",
    "constant_scores",
    "kept_share",
    "sft_loss",
    "engine_gap",
    "format_kept",
    "equal_groups",
    "audit_drift",
    "audit_slope",
    "twin_refusals",
    "judge_agreement",
]
"""The quantities of `report.health.quantities`, which says what each is."""

REACH: dict[GateName, tuple[float, float]] = {
    "sft_loss": (0, inf),
    "engine_gap": (0, inf),
    "audit_drift": (0, inf),
    "audit_slope": (-inf, inf),
    "judge_agreement": (-1, 1),
}
"""What a quantity can be; those that are not here are shares."""
EDGE = 1e-9
"""A mean this far outside is on the edge, and in the band."""


class Band(Section):
    """What a quantity may be, in its unit: shares are 0-1."""

    at_least: Free[float | None] = None
    """lower end of the band; null for none"""
    at_most: Free[float | None] = None
    """upper end of the band; null for none"""
    basis: Free[str] = "provisional"
    """what the band comes from, for instance the runs that it was seen in"""
    means: Free[str | None] = None
    """what it means to leave it, and what to do; null takes this software's words"""

    @field_validator("at_least", "at_most", mode="before")
    @classmethod
    def _number(cls, end: Any) -> Any:
        if isinstance(end, bool):
            raise ValueError(f"must be a number, not {end}")
        return end

    @model_validator(mode="after")
    def _is_a_band(self) -> Band:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least:g} is more than at_most {self.at_most:g}; swap them")
        return self

    def left(self, value: float) -> str:
        """How a value is outside of the band, in words; "" within it."""
        if isnan(value):
            return "not a number"
        if self.at_most is not None and value > self.at_most + EDGE:
            return f"{value:.3g}, above {self.at_most:g} by {value - self.at_most:.3g}"
        if self.at_least is not None and value < self.at_least - EDGE:
            return f"{value:.3g}, below {self.at_least:g} by {self.at_least - value:.3g}"
        return ""

    def __str__(self) -> str:
        ends = (("at least", self.at_least), ("at most", self.at_most))
        return ", ".join(f"{end} {value:g}" for end, value in ends if value is not None)


def _in_reach(gates: dict[GateName, Band]) -> dict[GateName, Band]:
    """Refuses ends that no value reaches: such a gate never stops a run, or always."""
    for gate, band in gates.items():
        low, high = REACH.get(gate, (0, 1))
        for name, end in (("at_least", band.at_least), ("at_most", band.at_most)):
            if end is not None and not low <= end <= high:
                what = gate if gate in REACH else "a share"
                reach = f"{low:g} or more" if high == inf else f"{low:g} to {high:g}"
                percent = f"; did you mean {end / 100:g}?" if high == 1 and 2 <= end <= 100 else ""
                raise ValueError(f"{gate}.{name} is {end:g}, and {what} is {reach}{percent}")
    return gates


Gates = Annotated[dict[GateName, Band], AfterValidator(_in_reach)]
