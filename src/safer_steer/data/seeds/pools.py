"""Writes the three pools from the journal, in the order of the pairs, and `dropped.jsonl`: what is in no
pool, and why."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from safer_steer.data.seeds.attempts import outcome, reasons
from safer_steer.data.seeds.dedup import Seen, script_key
from safer_steer.data.seeds.dropped import DROPPED
from safer_steer.data.sources import Pair
from safer_steer.dialogue import Kind, Seed, read_seeds
from safer_steer.errors import Fault, UserError
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


def kinds_of(pair: Pair, wanted: Sequence[Kind]) -> list[Kind]:
    """The kinds of script made from a pair: always a benign one, and the other two unless the pair is known
    to be safe. Only kinds in `wanted`."""
    return [kind for kind in Kind if kind in wanted and (kind is Kind.BENIGN or pair.safe is not True)]


def key_of(pair: Pair, job: Kind | str) -> str:
    """The key of a pair's job in the journal. For a script it is also the seed's id."""
    return f"{pair.id}-{job}"


def read_pools(folder: Path, kinds: Sequence[Kind]) -> list[Seed]:
    """The seeds of a run's folder, pool by pool; a pool may be empty.

    Raises:
        UserError: a pool is missing, or all are empty.
    """
    seeds: list[Seed] = []
    for kind in kinds:
        seeds += read_seeds(folder / "seeds" / f"{kind.value}.jsonl", may_be_empty=True)
    if not seeds:
        raise UserError(
            f"{folder}/seeds: there is no script; dropped.jsonl says why, `safer-steer seeds` writes them"
        )
    return seeds


def write_pools(
    folder: Path,
    pairs: Iterable[Pair],
    shards: ShardedJournal,
    wanted: Sequence[Kind],
    left_out: dict[str, str],
) -> dict[str, int]:
    """Write `<kind>.jsonl` for each wanted kind, and `dropped.jsonl`. Return the number of rows of each.

    Of scripts with the same content, the first is kept, whatever its pool. Scripts for the bench and for
    training are compared separately, so a bench script is never dropped for a training script.

    A row of `dropped.jsonl` is {"id", "pair", "kind", "reason", "detail", "attempts"}. The reason is refused,
    empty, repeated, unparsable, rejected, failed_attack, duplicate, duplicate_pair or unusable_picture. Pairs
    in `left_out` have the reason given there. `attempts` holds the reason and, for red-team scripts, the
    strategy of each failed attempt.

    All files are written to temporary files and then moved into place.
    """
    names = [*(kind.value for kind in wanted), DROPPED]
    counts = dict.fromkeys(names, 0)
    seen, rows = Seen(), dict[str, dict[str, Any]]()
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {
            name: stack.enter_context((folder / f"{name}.jsonl.part").open("wb")) for name in names
        }

        def drop(pair: Pair, id: str, kind: Kind | None, why: str, job: str) -> None:
            reason, detail = Fault.read(why)
            row: dict[str, Any] = {
                "id": id,
                "pair": pair.id,
                "kind": kind,
                "reason": reason,
                "detail": detail,
            }
            if failed := reasons(rows, job):
                row["attempts"] = failed
            files[DROPPED].write(json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n")
            counts[DROPPED] += 1

        for index, pair in enumerate(pairs):
            if index % SHARD == 0:
                rows = shards.rows(index // SHARD)
            if pair.id in left_out:
                drop(pair, pair.id, None, left_out[pair.id], pair.id)
                continue
            probe = key_of(pair, "probe")
            probed = outcome(rows, probe)
            for kind in kinds_of(pair, wanted):
                id = key_of(pair, kind)
                made = outcome(rows, id)
                row = made or (probed if probed and "failed" in probed else None)
                assert row is not None, f"{id} has no outcome; pools are written when every job has one"
                if "failed" in row:
                    drop(pair, id, kind, row["failed"], id if made else probe)
                else:
                    seed = Seed.model_validate(row["made"]["seed"])
                    first = seen.first(script_key(seed.script, f"{row['made']['picture']} {pair.use}"), id)
                    if first != id:
                        drop(pair, id, kind, f"duplicate: of {first}", id)
                        continue
                    files[kind].write(seed.model_dump_json().encode() + b"\n")
                    counts[kind] += 1
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    for name in names:
        (folder / f"{name}.jsonl.part").replace(folder / f"{name}.jsonl")
    return counts
