"""Streams rows into Parquet files. Only one row group is in memory at a time, regardless of the number of
pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safer_steer.dialogue import Kind, Seed
from safer_steer.files.images import Picture


@dataclass
class SplitCounts:
    """Counts of one split of one part."""

    part: str
    split: str
    dialogues: int = 0
    pictures: set[str] = field(default_factory=set)
    """SHA-256 hashes: a picture used in several dialogues counts once."""
    kinds: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    """Dialogues by number of turns."""

    def add(self, seed: Seed, pictures: Sequence[Picture]) -> None:
        """Count one dialogue or script."""
        self.dialogues += 1
        self.pictures.update(picture.sha256 for picture in pictures)
        self.kinds[seed.kind.value] += 1
        self.sources[seed.source or "not named"] += 1
        self.lengths[len(seed.turns)] += 1


def by_kind(tallies: Sequence[SplitCounts]) -> list[list[str]]:
    """Table (head, then rows): dialogues of each split by kind, mean number of turns, pictures."""
    head = ["", "dialogues", *(kind.value for kind in Kind), "mean turns", "pictures"]
    rows = []
    for tally in tallies:
        mean = sum(turns * count for turns, count in tally.lengths.items()) / max(1, tally.dialogues)
        kinds = [str(tally.kinds[kind.value]) for kind in Kind]
        rows.append([label(tally), str(tally.dialogues), *kinds, f"{mean:.2f}", str(len(tally.pictures))])
    return [head, *rows]


def by_source(tallies: Sequence[SplitCounts]) -> list[list[str]]:
    """Table (head, then rows): dialogues of each split by source."""
    rows = [["source", *map(label, tallies)]]
    for name in sorted(set().union(*(tally.sources for tally in tallies))):
        rows.append([name, *(str(tally.sources[name]) for tally in tallies)])
    return rows


def by_length(tallies: Sequence[SplitCounts]) -> list[list[str]]:
    """Table (head, then rows): dialogues of each split by number of turns."""
    rows = [["turns", *map(label, tallies)]]
    for turns in sorted(set().union(*(tally.lengths for tally in tallies))):
        rows.append([str(turns), *(str(tally.lengths[turns]) for tally in tallies)])
    return rows


def label(tally: SplitCounts) -> str:
    """`sft`, `rl`, `bench/<suite>`."""
    return tally.part if tally.split == "train" else f"{tally.part}/{tally.split}"


GROUP_BYTES = 16_000_000
"""Size of a row group, pictures and text: what is in memory, and what a reader decodes at once."""
SHARD_BYTES = 400_000_000
"""Size of one file; the hub's viewer handles this size well."""


class ParquetShards:
    """Writes `name-00000-of-00003.parquet` and so on into a folder. The same rows give the same bytes."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.name, self.shard_bytes = folder, name, shard_bytes
        self.schema = schema
        self._parts: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._group = self._shard = 0
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, row: dict[str, Any], size: int) -> None:
        """Add a row of about `size` bytes."""
        self._rows.append(row)
        self._group += size
        if self._group >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            self._parts.append(self.folder / f"{self.name}-{len(self._parts):05d}.parquet")
            self._writer = pq.ParquetWriter(self._parts[-1], self.schema)
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self.schema))
        self._shard += self._group
        self._rows, self._group = [], 0
        if self._shard >= self.shard_bytes:
            self._end_shard()

    def _end_shard(self) -> None:
        if self._writer:
            self._writer.close()
        self._writer, self._shard = None, 0

    def close(self) -> list[Path]:
        """Write the remaining rows, rename the files to their final names, and return their paths. With no
        rows at all, one empty file is written."""
        if self._rows or not self._parts:
            self._flush()
        self._end_shard()
        return [
            part.rename(self.folder / f"{self.name}-{index:05d}-of-{len(self._parts):05d}.parquet")
            for index, part in enumerate(self._parts)
        ]


def embedded(picture: Picture) -> dict[str, Any]:
    """A picture as `datasets` and verl store it in Parquet: the original file's bytes, with a name that
    reveals nothing about this machine."""
    return {"bytes": picture.data, "path": file_name(picture)}


def file_name(picture: Picture) -> str:
    """A file name derived from the content, so that equal pictures share one file."""
    return f"{picture.sha256[:32]}.{picture.mime.removeprefix('image/').replace('jpeg', 'jpg')}"
