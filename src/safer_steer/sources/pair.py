"""The noun Stage I starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

from safer_steer.errors import UserError
from safer_steer.images import Picture, check_header, check_whole, load_picture, picture_from


@dataclass(frozen=True)
class Pair:
    """One single-turn pair."""

    id: str
    """Unique over all sources of a run."""
    image: Path | bytes | Callable[[], bytes]
    """The picture's file; or its bytes, undecoded, where the set embeds them; or what draws it as a PNG,
    always alike: its id and the config's seed say how. A list of pairs may therefore be heavy: read them one
    by one."""
    question: str
    source: str
    intent: str
    """What the question is really after; the question itself where the set does not say."""
    safe: bool | None = None
    """Is it meant to be harmless? None where the set does not say, which counts as risky."""
    answer: str | None = None
    """The true answer, in sets of general capability."""
    where: str = ""
    """Set, file and row, for errors."""
    category: str = ""
    """The set's own name of the risk, or of the subject."""
    use: Literal["train", "bench"] = "train"
    """What its scripts are for, as the source says."""


def picture_of(pair: Pair, max_pixels: int) -> Picture:
    """A pair's picture as models see it, scaled down if it has more than `max_pixels` pixels.

    Raises:
        UserError: missing or unreadable; names set, file, row and column.
    """
    try:
        if isinstance(pair.image, Path):
            return load_picture(pair.image.parent, pair.image.name, max_pixels)
        data = pair.image if isinstance(pair.image, bytes) else pair.image()
        return picture_from(data, pair.id, max_pixels)
    except UserError as error:
        raise UserError(f"{pair.where}: image: {error}") from None


def picture_hash(pair: Pair) -> str:
    """SHA-256 of the picture as the set has it; "" where it is drawn, which follows from id and the config's
    seed.

    Raises:
        UserError: it cannot be read.
    """
    if isinstance(pair.image, bytes):
        return hashlib.sha256(pair.image).hexdigest()
    if not isinstance(pair.image, Path):
        return ""
    try:
        with pair.image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise UserError(f"{pair.where}: image: {pair.image}: not readable; fix that and run again") from None


def check_picture(pair: Pair) -> None:
    """Decode a pair's picture to see that it is whole; one that is drawn is. Raises as `picture_of` does."""
    try:
        if isinstance(pair.image, Path):
            check_whole(pair.image.read_bytes(), str(pair.image))
        elif isinstance(pair.image, bytes):
            check_whole(pair.image)
    except (UserError, OSError) as error:
        raise UserError(f"{pair.where}: image: {error}") from None


def is_large(pair: Pair, max_pixels: int) -> bool:
    """Will its picture be scaled down? By its header; False for one that is drawn. Raises as `picture_of`
    does."""
    if callable(pair.image):
        return False
    try:
        if isinstance(pair.image, Path):
            width, height = check_header(pair.image, str(pair.image))
        else:
            width, height = check_header(BytesIO(pair.image))
    except UserError as error:
        raise UserError(f"{pair.where}: image: {error}") from None
    return width * height > max_pixels
