"""Reads rows of JSONL, JSON and CSV files, one at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safer_steer.errors import UserError, shortened
from safer_steer.files.store import TEXT, numbered_lines

CHUNK = 1 << 16
"""Characters read from a JSON file at a time."""


@dataclass(frozen=True)
class Unreadable:
    """Replaces a row that cannot be read, and says why."""

    what: str
    reason: str


def jsonl_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """One JSON value per line; places are line numbers."""
    for number, line in numbered_lines(path):
        try:
            yield f":{number}", json.loads(line.decode())
        except UnicodeDecodeError as error:
            what = f"not JSON: not UTF-8 ({error.reason} at byte {error.start})"
            yield f":{number}", Unreadable(what, "not UTF-8")
        except (ValueError, RecursionError) as error:
            yield f":{number}", Unreadable(f"not JSON ({shortened(str(error), 80)})", "not JSON")


def csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """A CSV file with a header line; an empty cell becomes None. Places are row numbers, from 1."""
    csv.field_size_limit(1 << 24)
    with path.open(encoding=TEXT, errors="surrogateescape", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        _check_header(path, rows)
        number = 0
        try:
            for number, row in enumerate(rows, 1):
                place = f": row {number}"
                if None in row:
                    yield place, Unreadable("more cells than there are column names", "not a CSV row")
                elif any(_escaped(value) for value in row.values() if value):
                    yield place, Unreadable("not UTF-8", "not UTF-8")
                else:
                    yield place, {name: value or None for name, value in row.items()}
        except csv.Error as error:
            raise UserError(f"{path}: row {number + 1}: not CSV ({error})") from None


def _check_header(path: Path, rows: csv.DictReader[str]) -> None:
    """Raises `UserError` if the header is not UTF-8, has other separators than commas, or a name twice."""
    try:
        names = rows.fieldnames or ()
    except csv.Error as error:
        raise UserError(f"{path}: header: not CSV ({error})") from None
    if any(_escaped(name) or "\0" in name for name in names):
        raise UserError(f"{path}: header: not UTF-8; save the file as CSV in UTF-8")
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and separator in names[0]:
            raise UserError(f"{path}: header: columns are separated by {word}; separate them by commas")
    twice = next((name for place, name in enumerate(names) if name and name in names[:place]), "")
    if twice:
        raise UserError(f"{path}: header: two columns are called {shortened(twice, 80)}; rename one of them")


def _escaped(value: str) -> bool:
    """Whether the value holds bytes that were not UTF-8."""
    return not value.isascii() and any("\udc80" <= character <= "\udcff" for character in value)


def json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """One of: a JSON array, read element by element; an object of objects, whose keys become the column `pid`
    of rows without one; or JSONL under another name. Raises `UserError`: not JSON. The rest of the file
    cannot be read either, so the row cannot be skipped."""
    try:
        with path.open(encoding=TEXT) as file:
            first = file.read(1)
            while first and first.isspace():
                first = file.read(1)
        if first == "[":
            yield from _array(path)
        elif _has_one_row_a_line(path):
            yield from jsonl_rows(path)
        elif first:
            whole = json.loads(path.read_text(encoding=TEXT))
            if not isinstance(whole, dict) or not all(isinstance(row, dict) for row in whole.values()):
                raise UserError(f"{path}: is not a list of rows")
            for number, (key, row) in enumerate(whole.items(), 1):
                yield f": row {number}", {"pid": key} | row
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not JSON: not UTF-8 ({error.reason})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({shortened(str(error), 80)})") from None


def _has_one_row_a_line(path: Path) -> bool:
    """Whether the first line is a whole row and more lines follow."""
    with path.open(encoding=TEXT) as file:
        try:
            return isinstance(json.loads(file.readline()), dict) and bool(file.readline().strip())
        except (ValueError, RecursionError):
            return False


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    decoder = json.JSONDecoder()
    with path.open(encoding=TEXT) as file:
        text, at, number, ended = file.read(CHUNK).lstrip()[1:], 0, 0, False

        def more() -> None:
            nonlocal text, at, ended
            # The amount doubles, so that reading a long row takes linear time.
            chunk = file.read(max(CHUNK, len(text) - at))
            text, at, ended = text[at:] + chunk, 0, not chunk

        while True:
            while at < len(text) and text[at].isspace():
                at += 1
            if at == len(text) and not ended:
                more()
                continue
            if number == 0 and text.startswith("]", at):
                at += 1
                break
            try:
                value, end = decoder.raw_decode(text, at)
                while end < len(text) and text[end].isspace():
                    end += 1
                if end == len(text) and not ended:
                    more()  # a number may continue, or the separator may follow
                    continue
            except json.JSONDecodeError as error:
                if ended:  # its place counts from what is in memory
                    raise ValueError(f"row {number + 1}: {error.msg}") from None
                more()
                continue
            except (ValueError, RecursionError) as error:
                raise ValueError(f"row {number + 1}: {error}") from None
            number += 1
            yield f": row {number}", value
            separator, at = text[end : end + 1], end + 1
            if separator == "]":
                break
            if separator != ",":
                raise ValueError(f"no comma after row {number}")
        if (text[at:] + file.read()).strip():
            raise UserError(f"{path}: not JSON (more text after the end of the list)")
