"""The pair: the input unit of Stage I."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

from safer_steer.errors import UserError
from safer_steer.files.images import (
    UNREADABLE,
    Picture,
    PictureError,
    Trial,
    check_header,
    check_whole,
    load_picture,
    picture_from,
)
from safer_steer.files.store import sha256_of


@dataclass(frozen=True)
class Pair:
    """One single-turn pair."""

    id: str
    """Unique over all sources of a run."""
    image: Path | bytes | Callable[[], bytes]
    """The picture's file; its undecoded bytes, if the set embeds them; or a function that renders it as a
    PNG. The rendering is fixed by the pair's id and the config's seed. A list of pairs may use much memory,
    so read them one by one."""
    question: str
    source: str
    intent: str
    """The true intent of the question; the question itself if the set does not give one."""
    safe: bool | None = None
    """Whether it is meant to be harmless. None if the set does not say; that counts as risky."""
    answer: str | None = None
    """The true answer, in sets of general capability."""
    where: str = ""
    """Set, file and row, for errors."""
    category: str = ""
    """The set's own name for the risk or the subject."""
    use: Literal["train", "bench"] = "train"
    """What its scripts are for, as set in the source."""


def picture_of(pair: Pair, max_pixels: int) -> Picture:
    """A pair's picture as models see it, with at most `max_pixels` pixels.

    Raises:
        UserError: the picture is missing or unreadable. The message names set, file, row and column.
    """
    try:
        if isinstance(pair.image, Path):
            return load_picture(pair.image.parent, pair.image.name, max_pixels)
        data = pair.image if isinstance(pair.image, bytes) else pair.image()
        return picture_from(data, pair.id, max_pixels)
    except UserError as error:
        raise UserError(f"{pair.where}: image: {error}") from None


def picture_hash(pair: Pair) -> str:
    """SHA-256 of the picture as the set has it. "" for a rendered picture, which is fixed by the pair's id
    and the config's seed.

    Raises:
        UserError: the picture cannot be read.
    """
    if isinstance(pair.image, bytes):
        return hashlib.sha256(pair.image).hexdigest()
    if not isinstance(pair.image, Path):
        return ""
    try:
        return sha256_of(pair.image)
    except OSError:
        raise UserError(f"{pair.where}: image: {pair.image}: not readable; fix that and run again") from None


def check_picture(pair: Pair, trial: Trial | None = None) -> None:
    """Check that a pair's picture is whole by decoding it, and that the student takes it. Rendered pictures
    are not checked.

    Raises:
        PictureError: the message names set, file, row and column.
    """
    try:
        if isinstance(pair.image, Path):
            check_whole(pair.image.read_bytes(), str(pair.image), trial)
        elif isinstance(pair.image, bytes):
            check_whole(pair.image, trial=trial)
    except PictureError as error:
        raise PictureError(f"{pair.where}: image: {error}", error.reason) from None
    except OSError as error:
        raise PictureError(f"{pair.where}: image: {error}", UNREADABLE) from None


def is_large(pair: Pair, max_pixels: int) -> bool:
    """Whether the picture will be scaled down, according to its header. False for a rendered picture. Raises
    as `picture_of` does."""
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
