"""What a run leaves on disk: append-only journals that survive kill -9, and files that are whole or
absent."""

from __future__ import annotations

import codecs
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from safer_steer.errors import UserError, shortened

TEXT = "utf-8-sig"
"""The encoding of users' text files: UTF-8, also with the byte order mark that some programs write first."""


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a user's text file that are not blank, with their numbers from 1, as UTF-8."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, line


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in an error of the disk, which does not say it: full, or over a quota."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def writing(path: Path, sync: bool = True) -> Iterator[IO[bytes]]:
    """Write a file so that a reader, or a kill at any moment, finds the old one or the new one, never a
    part. Without `sync` that does not hold for a power cut, and it is much faster. An error leaves no
    part behind, and one of the disk names the file. No link is followed, and none is left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with naming(path):
        try:
            part.unlink(missing_ok=True)  # killed, or a link in a folder from somebody else
            with part.open("xb") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


class AtWork(UserError):
    """Another process is at work in a folder."""


def locked(folder: Path) -> IO[bytes]:
    """Lock a run folder, until the file is closed; the folder is made. Raises `AtWork` if another process is
    at work there, and `UserError` if it cannot be written to, or the lock is no plain file."""
    refuse_no_plain_file(folder / ".lock", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("ab")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); choose another folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise AtWork(
            f"{folder}: another process is at work there; wait for it or choose another folder"
        ) from None
    return lock


def sha256_of(path: Path) -> str:
    """A file's SHA-256 in hex. Raises `OSError` if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: str | bytes, sync: bool = True) -> None:
    """`writing` for a content that is at hand."""
    with writing(path, sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


_DESK = ".safer-steer"
"""The folder in `X.part` in which `X` is written; so what a killed process left tells itself from others'."""


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write into. It is renamed to `path` when the block ends without an error, so that
    one is complete or absent; what stood there is replaced. An error leaves no part behind. Raises
    `UserError` if something else stands at `path.part`, where it lies until then."""
    part = path.with_name(path.name + ".part")
    desk = part / _DESK
    others = [part] if os.path.lexists(part) else []
    if part.is_dir() and not part.is_symlink():
        others = [entry for entry in part.iterdir() if entry != desk]
    if others:
        raise UserError(
            f"{part}: has other files ({others[0].name}), and {path.name} is made there; move it away"
        )
    shutil.rmtree(part, ignore_errors=True)
    desk.mkdir(parents=True)
    try:
        yield desk
        shutil.rmtree(path, ignore_errors=True)
        desk.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


class PathError(UserError):
    """A path that cannot be used; `reason` says why in a few words, for counts."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


_ADDRESS = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*://|data:)", re.IGNORECASE)
_SHOWN = 80
"""Characters of a path in an error message."""


def refuse_address(path: str) -> None:
    """Raises `PathError` if the path is a web address or a data URL."""
    if _ADDRESS.match(path):
        raise PathError(
            f"{shortened(path, _SHOWN)}: is a web address; addresses are not fetched;"
            " download the file and give its path",
            "web address",
        )


def inside(folder: Path, relative: str) -> Path:
    """The path of `relative` in `folder`. Raises `PathError` if it is a web address, no path at all, or leads
    out of the folder (also through a link)."""
    refuse_address(relative)
    name = shortened(relative, _SHOWN)
    try:
        path = (folder / relative).resolve()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, a NUL
        raise PathError(f"{name!r}: no usable path in {folder}", "no usable path") from None
    if (
        Path(relative).is_absolute()
        or ".." in Path(relative).parts
        or not path.is_relative_to(folder.resolve())
    ):
        raise PathError(f"{name}: leads out of {folder}; use a path inside it", "path outside the folder")
    return path


NAME_CHARACTERS = 60
"""Most characters of a name from `file_name`, so that it fits 255 bytes in any alphabet."""


def file_name(name: str) -> str:
    """A file or folder name made of any text, for instance a model's name. Other characters than letters,
    digits, `.`, `_` and `-` become `_`. A name that would be empty or too long ends in a hash of the text."""
    safe = re.sub(r"[^\w.-]+", "_", name).strip(".")
    if 0 < len(safe) <= NAME_CHARACTERS:
        return safe
    digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]
    return f"{safe[:NAME_CHARACTERS]}-{digest}".lstrip("-")


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, no escapes, and a newline at its end. Raises `ValueError` if a
    number is not finite."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text + "\n"


def content_id(*parts: Any) -> str:
    """A short stable id of what something is: 16 hex digits of the SHA-256 of its canonical JSON."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()[:16]


def row_counts(folder: Path, patterns: Iterable[str]) -> str:
    """How many rows these files have, in words: `417 kept, 63 rejected`. A file is named by its path below
    its stage's folder. "" if there are none."""
    counts = []
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            with path.open("rb") as file:
                rows = sum(1 for _ in file)
            below = path.relative_to(folder).with_suffix("").parts[1:]
            counts.append(f"{rows:,} {' '.join(below).replace('_', ' ')}")
    return ", ".join(counts)


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """The object in a file that `stage` writes; empty without the file. Raises `UserError` if it is
    damaged."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_bytes())
    except ValueError:
        raise UserError(f"{path}: no valid JSON; remove it and run `safer-steer {stage}` again") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: no JSON object; remove it and run `safer-steer {stage}` again")
    return data


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, one by one; none where there is no file. A torn last line (a run under
    way, or killed) is left out. Raises `UserError` if a line is no JSON object; names file and line."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for place, line in enumerate(lines, 1):
            try:
                row = _row_in(line) if line.strip() else {}
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise UserError(
                    f"{path}:{place}: no JSON object ({error}); move the file away and run its stage again"
                ) from None
            if row:
                yield row


def _row_in(line: bytes) -> dict[str, Any]:
    """The object of a line. Raises `ValueError` if it is none, or has an integer that no float can be."""
    try:
        row = json.loads(line, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}")
    return row


def _integer(digits: str) -> int:
    if len(digits) > sys.float_info.max_10_exp:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


class Reading:
    """Reads rows whose fields nobody has looked at yet, and knows which one is being read."""

    at = ""
    """File and row; "" between two files."""

    def rows(self, path: Path) -> Iterator[dict[str, Any]]:
        """`read_rows`."""
        for place, row in enumerate(read_rows(path), 1):
            self.at = f"{path}: row {place}"
            yield row
        self.at = ""


@contextmanager
def rows_of(stage: str) -> Iterator[Reading]:
    """For reading rows that `stage` has written. An error of the block that a row of other fields may cause
    is a `UserError`, which names the row and the error."""
    reading = Reading()
    try:
        yield reading
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        if not reading.at:  # no row has caused it
            raise
        why = shortened(f"{type(error).__name__}: {error}", 80)
        raise UserError(
            f"{reading.at}: not a row as `{stage}` writes it ({why}); move the file away and run its stage"
            " again"
        ) from error


class Rows(Mapping[str, dict[str, Any]]):
    """The rows of an open journal by id, each read from the file when it is asked for."""

    def __init__(self, file: IO[bytes], places: dict[str, tuple[int, int]]) -> None:
        """`places` holds where a row begins and how long it is, in bytes."""
        self._file, self._places = file, places

    def __getitem__(self, id: str) -> dict[str, Any]:
        begin, length = self._places[id]
        return _row_in(os.pread(self._file.fileno(), length, begin))

    def __contains__(self, id: object) -> bool:
        return id in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _run_of(path: Path) -> Path:
    """The run of a journal: the nearest folder above the journal's own that has a config."""
    runs = [folder for folder in path.absolute().parents[1:] if (folder / "config.yaml").is_file()]
    return runs[0] if runs else path.parent


def refuse_no_plain_file(path: Path, folder: Path) -> None:
    """Raises `UserError` if what is written to in this folder is a link or a pipe, or lies outside of it by a
    link. The folder may itself be reached by a link."""
    other = path.is_symlink() or (path.exists() and not path.is_file())
    if other or not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path}: is no plain file of {folder} (a link, a pipe); put the file itself there")


class Journal:
    """Append-only JSONL of finished work, keyed by `id`. On opening, a torn last line (kill -9) is cut off
    and so redone.

    Only ids are in memory; `rows` reads the rest from the file, as long as the journal is open.

    >>> journal = Journal(path)
    >>> if seed.id not in journal: journal.append({"id": seed.id, ...})
    """

    def __init__(self, path: Path) -> None:
        """Raises `UserError` if a line is no row, or the file is no plain one of its run."""
        refuse_no_plain_file(path, _run_of(path))
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        if path.exists():
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        break
                    try:
                        self._places[_row_in(line)["id"]] = whole, len(line)
                    except (ValueError, KeyError, TypeError):
                        raise UserError(
                            f"{path}:{number}: not a row of this journal; move the file away to run its"
                            " stage again"
                        ) from None
                    whole += len(line)
            if whole < path.stat().st_size:
                os.truncate(path, whole)
        self._file = path.open("a+b")
        self._end = whole
        self.rows = Rows(self._file, self._places)

    def __contains__(self, id: str) -> bool:
        return id in self._places

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows.values())

    def __len__(self) -> int:
        return len(self._places)

    def append(self, row: dict[str, Any]) -> None:
        """Add one finished row and hand it to the operating system before returning."""
        if row["id"] in self._places:
            raise ValueError(f"{self.path}: {row['id']} is journalled already")
        line = json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n"
        with naming(self.path):
            self._file.write(line)
            self._file.flush()
        self._places[row["id"]] = self._end, len(line)
        self._end += len(line)

    def close(self) -> None:
        """Force everything to the disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
