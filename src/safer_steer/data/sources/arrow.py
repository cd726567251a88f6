"""Reads rows of Parquet files, `save_to_disk` folders and the hub's data sets. Pictures stay bytes or paths
and are never decoded.

`datasets` is used only to get Arrow tables; it executes no code of a data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safer_steer.data.sources.text_files import Unreadable
from safer_steer.errors import UserError, what_is_missing

BATCH = 32
"""Rows in memory at once; a row may hold a picture of a few megabytes."""


def parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """A Parquet file; places are row numbers, from 1. Raises `UserError`: the file is not Parquet, or
    damaged."""
    import pyarrow
    import pyarrow.parquet

    def batches(file: Any) -> Iterator[Any]:
        # One group at a time: given all groups, Arrow reads far ahead, and memory grows with the file.
        for group in range(file.num_row_groups):
            yield from file.iter_batches(BATCH, row_groups=[group], use_threads=False)

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _rows(batches(file))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({_line(error)})") from None


def saved_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows written by `Dataset.save_to_disk`. Raises `UserError`: the folder cannot be loaded."""
    datasets = _datasets(str(path))
    try:
        table = datasets.load_from_disk(str(path))
    except Exception as error:  # the library may raise anything on files of unknown origin
        raise UserError(f"{path}: cannot be loaded as a `save_to_disk` folder ({_line(error)})") from None
    yield from _rows(table.with_format("arrow").iter(BATCH))


def hub_rows(id: str, subset: str, split: str, where: str) -> Iterator[tuple[str, Any]]:
    """Rows of a split, downloaded into the cache of `datasets` if needed. Raises `UserError`."""
    table = ask_hub("load_dataset", where, id, subset, split=split)
    yield from _rows(table.with_format("arrow").iter(BATCH))


def _datasets(where: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        if line := what_is_missing(error):
            raise UserError(f"{where}: {line}") from None
        raise
    return datasets


def ask_hub(question: str, where: str, *arguments: str, **more: str) -> Any:
    """What this function of `datasets` returns. Raises `UserError`."""
    function = getattr(_datasets(where), question)
    try:
        return function(*arguments, **more)
    except Exception as error:  # network, hub and library may raise anything
        raise UserError(
            f"{where}: cannot be loaded from the hub ({_line(error)});"
            " check the name and the connection, or download it and give its `path`"
        ) from None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _rows(batches: Any) -> Iterator[tuple[str, Any]]:
    number = 0
    for batch in batches:
        for row in _values(batch):
            number += 1
            yield f": row {number}", row


def _values(batch: Any) -> list[Any]:
    """A table's rows as plain values. Parquet does not guarantee that strings are UTF-8."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [Unreadable("not UTF-8", "not UTF-8")]
        rows = []
        for index in range(batch.num_rows):
            rows += _values(batch.slice(index, 1))
        return rows
