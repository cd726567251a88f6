"""Two attempts at a job, each of them journalled; what became of it is what the last one says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from safer_steer.episodes import PATIENCE
from safer_steer.errors import BoundaryError, EndpointError, UserError
from safer_steer.seeds.red_team import FailedAttack
from safer_steer.store import Journal

ATTEMPTS = 2


class Unreached(Exception):
    """An endpoint was not to be had. That is no finished work, so it is not journalled, and another run tries again."""


def outcome(rows: Mapping[str, dict[str, Any]], key: str) -> dict[str, Any] | None:
    """The row of the last attempt at `key`: `made` holds its result, or `failed` why there is none. None where nothing is final yet."""
    for attempt in range(ATTEMPTS):
        row = rows.get(f"{key}:{attempt}")
        if row is None:
            return None
        if "made" in row:
            return row
    return row


def reasons(rows: Mapping[str, dict[str, Any]], key: str) -> list[dict[str, str]]:
    """Of each failed attempt at `key` the reason, and the strategy where it had one."""
    failed = [row for attempt in range(ATTEMPTS) if (row := rows.get(f"{key}:{attempt}")) and "failed" in row]
    return [{"reason": row["failed"].partition(": ")[0]} | ({"strategy": row["strategy"]} if "strategy" in row else {}) for row in failed]


class Attempts:
    """Does jobs, counts their fates by stage, and notices a dead endpoint."""

    def __init__(self) -> None:
        self.unreached: dict[str, str] = {}
        """Why a key has no outcome."""
        self._answered: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()
        self._last: dict[str, str] = {}

    async def make(
        self, journal: Journal, stage: str, key: str, job: Callable[[int], Awaitable[Any]], strategy: Callable[[int], str] | None = None
    ) -> dict[str, Any]:
        """The outcome of `key`: the journal's, or that of `job(attempt)`, which returns what JSON can hold.

        A failed attempt notes its reason, what the attack judge gave, and `strategy(attempt)`, so that what was tried can be counted.

        Raises:
            Unreached: the endpoint did not answer.
            UserError: it has not for a long time.
        """
        for attempt in range(ATTEMPTS):
            id = f"{key}:{attempt}"
            if id not in journal:
                try:
                    row = {"id": id, "made": await job(attempt)}
                except EndpointError as error:
                    self._unreached(stage, key, str(error))
                    raise Unreached from None
                except BoundaryError as error:
                    row = {"id": id, "failed": f"{error.boundary}: {error}"}
                except FailedAttack as error:
                    row = {"id": id, "failed": f"failed_attack: {error}", "attack_scores": error.scores}
                if "failed" in row and strategy:
                    row["strategy"] = strategy(attempt)
                journal.append(row)
            self._answered[stage] += 1
            self._in_a_row[stage] = 0
            if "made" in journal.rows[id]:
                break
        return journal.rows[id]

    def _unreached(self, stage: str, key: str, why: str) -> None:
        self.unreached[key] = self._last[stage] = why
        self._in_a_row[stage] += 1
        if self._in_a_row[stage] >= PATIENCE:
            self._give_up(stage)

    def end(self) -> None:
        """Raises `UserError` if a stage met nothing but silence."""
        for stage in self._in_a_row:
            if not self._answered[stage]:
                self._give_up(stage)

    def _give_up(self, stage: str) -> None:
        times = self._in_a_row[stage]
        raise UserError(f"seeds: {stage}: no answer {times} times in a row, the last: {self._last[stage]}; mend the endpoint in `roles` and run again to go on")
