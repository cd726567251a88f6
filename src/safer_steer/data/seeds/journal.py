"""The journal of Stage I: every finished attempt at a job, in shards of consecutive pairs.

A job is tried up to twice. The row of an attempt has its result in `made`, or the reason in `failed`; the
last attempt counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safer_steer.data.sources.pair import Pair
from safer_steer.dialogue import Kind
from safer_steer.endpoints.asked_again import ATTEMPTS
from safer_steer.errors import BoundaryError, EndpointError, FailedAttack, Fault
from safer_steer.files.store import Journal
from safer_steer.workers import Patience

SHARD = 256
"""Pairs per shard."""
Row = dict[str, Any]


class ShardedJournal:
    """Journals `NNNNN.jsonl`, each for `SHARD` consecutive pairs. A pair is identified by its 0-based index
    among all pairs."""

    def __init__(self, folder: Path, pairs: int) -> None:
        self.folder = folder
        self.pairs = pairs
        self._open: dict[int, Journal] = {}
        self._unfinished: dict[int, int] = {}

    def open(self, index: int) -> Journal:
        """The journal of pair `index`. Call once per pair, and `done` when the pair is finished."""
        shard = index // SHARD
        if shard not in self._open:
            self._open[shard] = Journal(self._path(shard))
            self._unfinished[shard] = min(SHARD, self.pairs - shard * SHARD)
        return self._open[shard]

    def done(self, index: int) -> None:
        """Marks pair `index` as finished. The last pair of a shard closes it."""
        shard = index // SHARD
        self._unfinished[shard] -= 1
        if not self._unfinished[shard]:
            del self._unfinished[shard]
            self._open.pop(shard).close()

    def rows(self, shard: int) -> dict[str, Row]:
        """The rows of a closed shard, by id."""
        with Journal(self._path(shard)) as journal:
            return dict(journal.rows)

    def close(self) -> None:
        """Close the shards that an error left open."""
        for journal in self._open.values():
            journal.close()
        self._open.clear()

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.jsonl"


def kinds_of(pair: Pair, kinds: Sequence[Kind]) -> list[Kind]:
    """The kinds of script made from a pair: always a benign one, and the other two unless the pair is known
    to be safe. Only those in `kinds`."""
    return [kind for kind in Kind if kind in kinds and (kind is Kind.BENIGN or pair.safe is not True)]


def rewrite_for(kind: Kind) -> str:
    """Which rewrite of the probe a script of this kind is made from."""
    return "benign" if kind is Kind.BENIGN else "obfuscated"


def failed_for(probed: Row | None, kind: Kind) -> str | None:
    """Why a finished probe has no rewrite for this kind; None if it has one, or is not finished. Of two
    rewrites, one alone may have failed."""
    if not probed:
        return None
    return probed["failed"] if "failed" in probed else probed["made"].get("failed", {}).get(rewrite_for(kind))


def key_of(pair: Pair, job: Kind | str) -> str:
    """The key of a pair's job in the journal. For a script it is also the seed's id."""
    return f"{pair.id}-{job}"


def outcome(rows: Mapping[str, Row], key: str) -> Row | None:
    """The row of the last attempt at `key`; None if nothing is final yet."""
    for attempt in range(ATTEMPTS):
        row = rows.get(f"{key}:{attempt}")
        if row is None or "made" in row:
            return row
    return row


def reasons(rows: Mapping[str, Row], key: str) -> list[dict[str, str]]:
    """The reason of each failed attempt at `key`, with its strategy if it had one."""
    failures = []
    for attempt in range(ATTEMPTS):
        row = rows.get(f"{key}:{attempt}", {})
        if "failed" in row:
            reason = {"reason": Fault.read(row["failed"]).boundary}
            failures.append(reason | {name: row[name] for name in ("strategy",) if name in row})
    return failures


async def try_twice(
    journal: Journal,
    patience: Patience,
    pair: Pair,
    stage: Kind | str,
    job: Callable[[int], Awaitable[Any]],
    strategy: Callable[[int], str] | None = None,
) -> Row | None:
    """The outcome of a pair's job: from the journal, or from `job(attempt)`, which returns JSON-serialisable
    data.

    Returns None if an endpoint did not answer. `patience` counts that, nothing is journalled, and the next
    run tries again. A failed attempt is journalled with its reason, the attack judge's scores and
    `strategy(attempt)`, so that the attempts can be counted.

    Args:
        stage: what `patience` counts by: `probe`, or a script's kind.

    Raises:
        UserError: endpoints failed the stage's jobs too many times in a row.
    """
    for attempt in range(ATTEMPTS):
        id = f"{key_of(pair, stage)}:{attempt}"
        if id not in journal:
            try:
                row = {"id": id, "made": await job(attempt)}
            except EndpointError as error:
                patience.failed(str(error), stage, pair.id)
                return None
            except BoundaryError as error:
                row = {"id": id, "failed": str(error.fault)}
                if isinstance(error, FailedAttack):
                    row["attack_scores"] = error.scores
                if strategy:
                    row["strategy"] = strategy(attempt)
            journal.append(row)
        patience.answered(stage)
        if "made" in journal.rows[id]:
            break
    return journal.rows[id]
