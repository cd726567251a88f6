"""A role that declines, or says nothing new, is asked once more: what came of such a request.

Red agent, tutor, attackers and generator are asked so. Rows keep it in three places: `meta.attacker` or
`meta.next_attacker` of a turn, `meta.attacker_faults` of a dialogue, and the generator's journal, a row for
each attempt. All are read and written as `Request`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safer_steer.errors import BoundaryError, Fault, RefusedError, UnparsableError
from safer_steer.files.meta import AskedAgain

ATTEMPTS = 2
"""How often a role is asked."""
FIRST, TEMPLATE = "first_attempt", "template"
"""Approaches besides those that a second attempt takes: none, and the script's own turn in its place."""


@dataclass
class Request:
    """One request to a role that writes user turns or scripts."""

    faults: list[str] = field(default_factory=list)
    """The boundaries at which attempts failed, in order."""
    approach: str = FIRST
    """How the attempt came at it whose turn is used."""
    gave_up: bool = False
    """Whether nothing came of it."""
    attempts: int = 1

    def again(self, error: BoundaryError) -> bool:
        """Note what was wrong with an attempt. Returns whether to ask again: not for an unparsable reply,
        since `roles.<role>.reasks` has done so."""
        self.faults.append(error.boundary)
        return len(self.faults) < ATTEMPTS and not isinstance(error, UnparsableError)

    def noted(self, approach: str | None = None) -> AskedAgain:
        """The fact for a turn's meta; `approach` is that of the turn that is used, if it is known."""
        return {"faults": self.faults} if approach is None else {"faults": self.faults, "approach": approach}

    @classmethod
    def of_turn(cls, noted: Mapping[str, Any] | None) -> Request:
        """Read the fact of a turn's meta; None if all went well."""
        faults = list((noted or {}).get("faults", ()))
        approach = (noted or {}).get("approach", FIRST)
        return cls(faults, approach, approach == TEMPLATE, _attempts(faults))

    @classmethod
    def of_dialogue(cls, faults: Sequence[str], gave_up: bool) -> Request:
        """Read `meta.attacker_faults`: a last move without a turn."""
        return cls(list(faults), gave_up=gave_up, attempts=_attempts(faults))

    @classmethod
    def without_verdict(cls, fault: Fault) -> Request | None:
        """A tutor that refused twice, or whose reply stayed unparsable; None for another fault."""
        times = {RefusedError.boundary: ATTEMPTS, UnparsableError.boundary: 1}.get(fault.boundary, 0)
        return cls([fault.boundary] * times, gave_up=True, attempts=times) if times else None

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]], counted: Collection[str]) -> Request:
        """Read the rows of all attempts at one job; boundaries that are not `counted` are no faults."""
        failed = [Fault.read(row.get("failed", "")).boundary for row in rows]
        return cls([one for one in failed if one in counted], FIRST, failed[-1] in counted, len(rows))


def _attempts(faults: Sequence[str]) -> int:
    return 1 if faults in ([], [UnparsableError.boundary]) else ATTEMPTS
