"""Why calls failed, counted, so that the line in which a run ends can name the commonest reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from safer_steer.dialogue import Dialogue

_NUMBER = re.compile(r"(?<!HTTP )\b[0-9a-f]*\d[0-9a-f-]*\b")


class Reasons:
    """Counts reasons. Two that differ only in numbers (tries, times, ids of requests; not the HTTP status)
    are one reason."""

    def __init__(self, reasons: Iterable[str] = ()) -> None:
        self._counts: Counter[str] = Counter()
        self._last: dict[str, str] = {}
        for reason in reasons:
            self.add(reason)

    def add(self, reason: str) -> None:
        """Count one reason."""
        kind = _NUMBER.sub("#", reason)
        self._counts[kind] += 1
        self._last[kind] = reason

    @property
    def total(self) -> int:
        """Reasons counted."""
        return self._counts.total()

    @property
    def commonest(self) -> str:
        """The last of the commonest reasons, with its count if there are others; "" if there is none."""
        for kind, count in self._counts.most_common(1):
            share = f" ({count} of {self.total})" if count < self.total else ""
            return f"{self._last[kind]}{share}"
        return ""


def reasons_in(dialogues: Iterable[Dialogue]) -> Reasons:
    """The errors that ended dialogues, and those that left turns without scores."""
    reasons = Reasons()
    for dialogue in dialogues:
        found = [dialogue.meta.get("error"), *(turn.meta.get("unscored") for turn in dialogue.turns)]
        for error in found:
            if error:
                reasons.add(str(error))
    return reasons
