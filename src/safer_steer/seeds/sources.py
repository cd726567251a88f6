"""Where Stage I starts: single-turn pairs of a picture and a question, from the sandbox or from files.

A published set is one more loader: a function that yields its rows as `Pair`, and its name in `LOADERS`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from safer_steer.config import Config, Source
from safer_steer.errors import UserError
from safer_steer.models.images import Picture, load_picture
from safer_steer.sandbox.language import make
from safer_steer.sandbox.world import draw, to_png, training_devices
from safer_steer.store import inside

SANDBOX_PAIRS = 60
"""Pairs the sandbox gives where the source sets no limit."""


@dataclass(frozen=True)
class Pair:
    """One single-turn pair. Pictures are read or drawn when they are needed, so a list of pairs is light."""

    id: str
    """Unique over all sources of a run."""
    image: Path | Callable[[], bytes]
    """The picture's file; or what draws it as a PNG, always alike: its id and the config's seed say how."""
    question: str
    source: str
    intent: str
    """What the question is really after; the question itself where the set does not say."""
    safe: bool | None = None
    """Is it meant to be harmless? None where the set does not say, which counts as risky."""
    answer: str | None = None
    """The true answer, in sets of general capability."""
    where: str = ""
    """File and row, for errors."""


def load_pairs(config: Config) -> Iterator[Pair]:
    """The pairs of all sources, in order, read as they are asked for.

    Raises:
        UserError: a file or a column is missing or unusable; names file, row and column.
    """
    for source in config.seeds.sources:
        loader = LOADERS.get(source.name) or (jsonl_pairs if source.path else None)
        if loader is None:
            raise UserError(f"seeds.sources: {source.name} is no built-in set ({', '.join(LOADERS)}); give its `path`, a JSONL file")
        yield from islice(loader(source, config), source.limit)


def picture_of(pair: Pair, max_pixels: int) -> Picture:
    """A pair's picture, checked.

    Raises:
        UserError: missing, unreadable or with more than `max_pixels` pixels; names file, row and column.
    """
    if not isinstance(pair.image, Path):
        data = pair.image()
        return Picture(name=pair.id, data=data, sha256=hashlib.sha256(data).hexdigest(), mime="image/png")
    try:
        return load_picture(pair.image.parent, pair.image.name, max_pixels)
    except UserError as error:
        raise UserError(f"{pair.where}: image: {error}") from None


def sandbox_pairs(source: Source, config: Config) -> Iterator[Pair]:
    """The sandbox's pairs: blunt questions about training devices, each device with a hazard mark and then without."""
    rng = random.Random(f"{config.seed} sandbox pairs")
    for index in range(source.limit or SANDBOX_PAIRS):
        if index % (2 * len(training_devices())) == 0:
            order = rng.sample(training_devices(), len(training_devices()))
        device, marked = order[index // 2 % len(order)], index % 2 == 0

        def render(device: Any = device, marked: bool = marked, seed: str = f"seeds {config.seed} {index}") -> bytes:
            return to_png(draw(device, marked, seed), device, marked)

        question = make("all", device, rng).text
        yield Pair(f"{source.name}-{index:05d}", render, question, source.name, "learn how the device is operated", not marked)


def jsonl_pairs(source: Source, config: Config) -> Iterator[Pair]:
    """A JSONL file with columns id, image (a path relative to the file's folder) and question, and optionally intent, safe
    (true, false or null), answer and source. Other columns are left alone.
    """
    path = Path(source.path or "")
    if not path.is_file():
        raise UserError(f"{path}: no such file; see `path` of source {source.name}")
    rows = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows += 1
                yield _pair(source, path, f"{path}:{number}", line)
    if not rows:
        raise UserError(f"{path}: no rows in it; source {source.name} needs at least one pair")


def _pair(source: Source, path: Path, where: str, line: bytes) -> Pair:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no JSON ({str(error)[:80]})") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row is a JSON object with columns id, image, question")
    safe = row.get("safe")
    if safe is not None and not isinstance(safe, bool):
        raise UserError(f"{where}: safe: is {json.dumps(safe)[:40]}; give true, false or null")
    id = row.get("id")
    id = str(id) if isinstance(id, int) and not isinstance(id, bool) else _text(row, "id", where)
    question = _text(row, "question", where)
    image = _text(row, "image", where)
    try:
        found = inside(path.parent, image)
    except UserError as error:
        raise UserError(f"{where}: image: {error}") from None
    intent = _text(row, "intent", where, optional=True) or question
    origin = _text(row, "source", where, optional=True) or source.name
    return Pair(f"{source.name}-{id}", found, question, origin, intent, safe, _text(row, "answer", where, optional=True) or None, where)


def _text(row: dict[str, Any], column: str, where: str, optional: bool = False) -> str:
    value = row.get(column)
    if value is None and optional:
        return ""
    if column not in row:
        raise UserError(f"{where}: {column}: the column is missing")
    if not isinstance(value, str) or not (optional or value.strip()):
        raise UserError(f"{where}: {column}: is {json.dumps(value)[:40]}; give a text")
    return value.encode(errors="replace").decode()  # half of a surrogate pair, which JSON can hold and UTF-8 cannot


LOADERS: dict[str, Callable[[Source, Config], Iterator[Pair]]] = {"sandbox": sandbox_pairs}
"""Sets with a layout of their own, by name; any other set is JSONL."""
