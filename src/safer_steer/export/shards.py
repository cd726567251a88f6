"""Streams rows into Parquet files. Only one row group is in memory at a time, regardless of the number of
pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safer_steer.files.images import Picture

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
