"""What a run leaves on disk: append-only journals that survive kill -9, and files that are whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safer_steer.errors import UserError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, finds the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def inside(folder: Path, relative: str) -> Path:
    """The path of `relative` in `folder`.

    Raises:
        UserError: the path is absolute, leads out of the folder (also through a link), or is none.
    """
    try:
        path = (folder / relative).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL
        raise UserError(f"{relative!r}: no usable path in {folder}") from None
    if Path(relative).is_absolute() or ".." in Path(relative).parts or not path.is_relative_to(folder.resolve()):
        raise UserError(f"{relative}: leads out of {folder}; use a path inside it")
    return path


def content_id(*parts: Any) -> str:
    """A short stable id of what something is: 16 hex digits of the SHA-256 of its canonical JSON."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Journal:
    """Append-only JSONL of finished work, keyed by `id`. On opening, a torn last line (kill -9) is cut off and so redone.

    >>> journal = Journal(path)
    >>> if seed.id not in journal: journal.append({"id": seed.id, ...})
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        if path.exists():
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        break
                    try:
                        row = json.loads(line)
                        self.rows[row["id"]] = row
                    except (ValueError, KeyError, TypeError):
                        raise UserError(f"{path}:{number}: not a row of this journal; move the file away to redo its stage") from None
                    whole += len(line)
            if whole < path.stat().st_size:
                os.truncate(path, whole)
        self._file = path.open("ab")

    def __contains__(self, id: str) -> bool:
        return id in self.rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows.values())

    def __len__(self) -> int:
        return len(self.rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add one finished row and hand it to the operating system before returning."""
        if row["id"] in self.rows:
            raise ValueError(f"{self.path}: {row['id']} is journalled already")
        self._file.write(json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n")
        self._file.flush()
        self.rows[row["id"]] = row

    def close(self) -> None:
        """Force everything to the disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
