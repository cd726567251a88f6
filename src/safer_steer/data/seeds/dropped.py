"""What Stage I dropped, in words, and the error if it made nothing at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from safer_steer.dialogue import Kind
from safer_steer.errors import UserError
from safer_steer.files.store import read_rows
from safer_steer.workers import Reasons

DROPPED = "dropped"
"""The file's name without its suffix."""


def refuse_nothing(folder: Path, kinds: Sequence[Kind]) -> None:
    """Raises `UserError` if every pool in `folder` is empty."""
    if not any((folder / f"{kind}.jsonl").stat().st_size for kind in kinds):
        raise UserError(
            f"{folder}: not one script was made ({dropped_in_words(folder)}){_commonest(folder)};"
            f" {DROPPED}.jsonl has each reason; change the models in `roles`, then start over with --fresh"
        )


def _commonest(folder: Path) -> str:
    """The commonest detail, as the next part of a sentence; "" if no row has one."""
    details = (row.get("detail") for row in read_rows(folder / f"{DROPPED}.jsonl"))
    commonest = Reasons(detail for detail in details if detail).commonest
    return f"; the commonest cause: {commonest}" if commonest else ""


def dropped_in_words(folder: Path) -> str:
    """What was dropped, on one line: "dropped: 5 unparsable, 2 attack failed"; "" if nothing was."""
    reasons = Counter(row["reason"] for row in read_rows(folder / f"{DROPPED}.jsonl"))
    counts = [f"{count:,} {reason_in_words(reason)}" for reason, count in reasons.most_common()]
    return f"dropped: {', '.join(counts)}" if counts else ""


def reason_in_words(reason: str) -> str:
    """A reason in `dropped.jsonl`, to read."""
    return "attack failed" if reason == "failed_attack" else reason.replace("_", " ")
