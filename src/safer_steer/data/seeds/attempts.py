"""Runs a job up to twice and journals each attempt. The last attempt is the result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from safer_steer.endpoints.asked_again import ATTEMPTS
from safer_steer.errors import BoundaryError, EndpointError, FailedAttack, Fault
from safer_steer.files.store import Journal
from safer_steer.workers import Patience


def outcome(rows: Mapping[str, dict[str, Any]], key: str) -> dict[str, Any] | None:
    """The row of the last attempt at `key`: its result in `made`, or the reason for the failure in `failed`.
    None if nothing is final yet."""
    for attempt in range(ATTEMPTS):
        row = rows.get(f"{key}:{attempt}")
        if row is None:
            return None
        if "made" in row:
            return row
    return row


def reasons(rows: Mapping[str, dict[str, Any]], key: str) -> list[dict[str, str]]:
    """The reason of each failed attempt at `key`, with its strategy if it had one."""
    failed = [row for attempt in range(ATTEMPTS) if (row := rows.get(f"{key}:{attempt}")) and "failed" in row]
    return [
        {"reason": Fault.read(row["failed"]).boundary}
        | ({"strategy": row["strategy"]} if "strategy" in row else {})
        for row in failed
    ]


async def try_twice(
    journal: Journal,
    patience: Patience,
    stage: str,
    key: str,
    job: Callable[[int], Awaitable[Any]],
    strategy: Callable[[int], str] | None = None,
) -> dict[str, Any] | None:
    """The outcome of `key`: from the journal, or from `job(attempt)`, which returns JSON-serialisable data.

    Returns None if an endpoint did not answer. `patience` counts that, nothing is journalled, and the next
    run tries again. A failed attempt is journalled with its reason, the attack judge's scores and
    `strategy(attempt)`, so that the attempts can be counted.

    Args:
        stage: the key `patience` counts by: `probe`, or a script's kind.

    Raises:
        UserError: endpoints failed the stage's jobs too many times in a row.
    """
    for attempt in range(ATTEMPTS):
        id = f"{key}:{attempt}"
        if id not in journal:
            try:
                row = {"id": id, "made": await job(attempt)}
            except EndpointError as error:
                patience.failed(str(error), stage)
                return None
            except BoundaryError as error:
                row = {"id": id, "failed": str(error.fault)}
                if isinstance(error, FailedAttack):
                    row["attack_scores"] = error.scores
            if "failed" in row and strategy:
                row["strategy"] = strategy(attempt)
            journal.append(row)
        patience.answered(stage)
        if "made" in journal.rows[id]:
            break
    return journal.rows[id]
