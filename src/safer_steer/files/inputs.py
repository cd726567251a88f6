"""What a stage reads from outside its run's folder: which files, and whether they are still as they were.

A stage names its inputs (`stages.Stage.inputs`), `run/input_files.py` finds their files when it begins, and
the manifest holds them: of each file its SHA-256, and the state in which it had it. A file in the same state
is trusted when a run goes on, since pictures and weights may be many gigabytes. `verify` reads every file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal, NamedTuple

from safer_steer.config import Source
from safer_steer.errors import shortened
from safer_steer.files.store import sha256_of

ROWS = (".jsonl", ".ndjson", ".csv")
"""Files of rows, one a line: a change in one is named by its line."""
MOST_ROWS = 20_000
"""So many rows of a file have a hash of their own. Of a longer one, a change further on is named without its
line."""
_DIGITS = 8
"""Hex digits of a row's hash. It finds the place of a change; that there is one says the file's hash."""


Holds = Literal["template", "scripts", "intents", "pairs", "questions", "pictures", "weights", "module"]
"""What an input is, or has rows of. Pictures are a folder of those that such rows name."""


@dataclass(frozen=True)
class Input:
    """A file, folder or module that a config names for a stage."""

    path: str
    """Absolute. For a module, its name."""
    holds: Holds
    source: Source | None = None
    """Of pairs."""


Taken = dict[str, Any]
"""What a manifest holds of a stage's inputs. `files`: by path, `[bytes, modified, changed, sha256]`, the two
times of the file's state in nanoseconds. `rows`: by path, the hashes of its rows, one after the other.
`folders`: by path, patterns of names: a file there that fits one belongs to the input."""


def take(files: Iterable[Path], folders: Mapping[Path, Iterable[str]]) -> Taken:
    """Read the files, and those in the folders whose names fit a pattern."""
    every = {*files, *(file for folder, names in folders.items() for file in _within(folder, names))}
    return {
        "files": {
            str(path): [*state, _read_once(path, state)] for path in sorted(every) for state in [_state(path)]
        },
        "rows": {str(path): "".join(_rows(path)) for path in sorted(every) if path.suffix in ROWS},
        "folders": {str(folder): sorted(names) for folder, names in sorted(folders.items())},
    }


def _within(folder: Path, names: Iterable[str]) -> list[Path]:
    return sorted({path for name in names for path in folder.glob(name) if path.is_file()})


class Difference(NamedTuple):
    """An input that is another now."""

    path: str
    what: Literal["changed", "added", "removed"]
    row: str = ""
    """The first row that is another one, in words; "" where that is not known."""


@dataclass
class Compared:
    """A stage's inputs now, against what it read."""

    differing: list[Difference] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Files that are not there to be compared: moved away, or the run is on another machine."""
    trusted_anew: Taken | None = None
    """What was taken, with the state that files have now whose content was read and is the same."""


def compare(taken: Taken, whole: bool) -> Compared:
    """Look at the inputs of a stage again. `whole`: read every file, and not only those in another state."""
    compared, files = Compared(), dict(taken["files"])
    for name, (*state, sha256) in taken["files"].items():
        path = Path(name)
        try:
            now = _state(path)
            if now == tuple(state) and not whole:
                continue
            if now[0] == state[0] and (sha256_of(path) if whole else _read_once(path, now)) == sha256:
                files[name] = [*now, sha256]
                continue
            rows = taken["rows"].get(name)
            row = "" if rows is None else _changed_row(path, rows)
            compared.differing.append(Difference(name, "changed", row))
        except (OSError, ValueError):  # a NUL in a path
            if str(path.parent) in taken["folders"] and path.parent.is_dir():
                compared.differing.append(Difference(name, "removed"))
            else:
                compared.missing.append(name)
    for folder, names in taken["folders"].items():
        there = map(str, _within(Path(folder), names))
        compared.differing += [Difference(path, "added") for path in there if path not in files]
    if files != taken["files"]:
        compared.trusted_anew = taken | {"files": files}
    return compared


def _state(path: Path) -> tuple[int, int, int]:
    """Size, and when the content and the entry in its folder changed. The last cannot be set by a program
    that puts the first two back. Raises `OSError` if it is no file that can be read."""
    state = path.stat()
    if not S_ISREG(state.st_mode):
        raise FileNotFoundError(path)
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


@cache
def _read_once(path: Path, state: tuple[int, int, int]) -> str:
    """The file's SHA-256 in hex, read once for each state of a file: stages share inputs."""
    return sha256_of(path)


def _rows(path: Path) -> Iterator[str]:
    with path.open("rb") as lines:
        for line in islice(lines, MOST_ROWS):
            yield hashlib.blake2b(line.rstrip(b"\r\n"), digest_size=_DIGITS // 2).hexdigest()


def _changed_row(path: Path, rows: str) -> str:
    """The first row that is another one now, in words; "" if none of those with a hash is."""
    before = [rows[begin : begin + _DIGITS] for begin in range(0, len(rows), _DIGITS)]
    now = list(_rows(path))
    place = next((i for i, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        place = min(len(before), len(now))
        if len(before) == len(now):
            return ""
    gone = place >= len(now) or (place < len(before) and now[place] in before[place + 1 :])
    new = place >= len(before) or before[place] in now[place + 1 :]
    if gone and not new:
        return f"line {place + 1} was removed"
    return f"line {place + 1}{_id(path, place)} {'was added' if new and not gone else 'differs'}"


def _id(path: Path, place: int) -> str:
    """The id of a JSON row, in brackets; "" if it has none."""
    with path.open("rb") as lines:
        line = next(islice(lines, place, None), b"")
    try:
        row = json.loads(line)
    except ValueError:
        return ""
    id = row.get("id") if isinstance(row, dict) else None
    return f" ({shortened(str(id), 60)})" if id is not None else ""
