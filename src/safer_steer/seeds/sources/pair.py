"""The noun Stage I starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safer_steer.errors import UserError
from safer_steer.models.images import Picture, load_picture, picture_from


@dataclass(frozen=True)
class Pair:
    """One single-turn pair."""

    id: str
    """Unique over all sources of a run."""
    image: Path | bytes | Callable[[], bytes]
    """The picture's file; or its bytes, undecoded, where the set embeds them; or what draws it as a PNG, always alike: its id and
    the config's seed say how. A list of pairs may therefore be heavy: read them one by one."""
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
    """A pair's picture, decoded once to see that it is whole.

    Raises:
        UserError: missing, unreadable or with more than `max_pixels` pixels; names set, file, row and column.
    """
    try:
        if isinstance(pair.image, Path):
            return load_picture(pair.image.parent, pair.image.name, max_pixels)
        if isinstance(pair.image, bytes):
            return picture_from(pair.image, pair.id, max_pixels)
    except UserError as error:
        raise UserError(f"{pair.where}: image: {error}") from None
    data = pair.image()
    return Picture(name=pair.id, data=data, sha256=hashlib.sha256(data).hexdigest(), mime="image/png")
