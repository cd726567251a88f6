"""Stage I's journal, split into shards so that memory use does not grow with the number of pairs. A shard is
in memory only while its pairs are processed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safer_steer.files.store import Journal

SHARD = 256
"""Pairs per shard."""


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

    def rows(self, shard: int) -> dict[str, dict[str, Any]]:
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
