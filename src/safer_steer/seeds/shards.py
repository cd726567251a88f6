"""Stage I's journal in shards, so that memory stays flat over any number of pairs: a shard is in memory while
its pairs are worked on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safer_steer.store import Journal

SHARD = 256
"""Pairs a shard."""


class ShardedJournal:
    """Journals `NNNNN.jsonl` of `SHARD` consecutive pairs each; a pair is known by its place among all pairs
    (0-based)."""

    def __init__(self, folder: Path, pairs: int) -> None:
        self.folder = folder
        self.pairs = pairs
        self._open: dict[int, Journal] = {}
        self._unfinished: dict[int, int] = {}

    def open(self, index: int) -> Journal:
        """The journal of pair `index`; to be called once for each pair and answered by `done`."""
        shard = index // SHARD
        if shard not in self._open:
            self._open[shard] = Journal(self._path(shard))
            self._unfinished[shard] = min(SHARD, self.pairs - shard * SHARD)
        return self._open[shard]

    def done(self, index: int) -> None:
        """Nothing more is written for pair `index`; the last of its shard closes it."""
        shard = index // SHARD
        self._unfinished[shard] -= 1
        if not self._unfinished[shard]:
            del self._unfinished[shard]
            self._open.pop(shard).close()

    def rows(self, shard: int) -> dict[str, dict[str, Any]]:
        """What a closed shard holds, by id."""
        with Journal(self._path(shard)) as journal:
            return dict(journal.rows)

    def close(self) -> None:
        """Close what an error left open."""
        for journal in self._open.values():
            journal.close()
        self._open.clear()

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.jsonl"
