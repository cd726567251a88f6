"""The pictures on a page: each distinct one once, as a thumbnail, and larger while there is room."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from safer_steer.errors import UserError
from safer_steer.files.store import inside

MAX_SIDE, MAX_BYTES = 512, 60_000
"""Larger pictures (longest side in pixels, or file size in bytes) are shrunk and saved as JPEG. Others are
embedded unchanged."""
THUMBNAIL, THUMBNAIL_BYTES = 128, 6_000
"""The same for thumbnails."""
PICTURES = 24_000_000
"""Maximum bytes of all pictures on the page, thumbnails included. Beyond it, only paths are shown."""


class Pictures:
    """Pictures as data URLs. Those for which there is no room, and files that are missing or no pictures, are
    named only."""

    def __init__(self, in_all: int = PICTURES) -> None:
        self.room = in_all
        self.urls: list[str] = []
        self.table: list[list[Any]] = []
        """Path, and the places in `urls` of the thumbnail and of the larger picture, or None."""
        self._places: dict[str, int] = {}
        self._known: dict[tuple[Path, str], int] = {}
        self._same: dict[tuple[str, str | None], int] = {}
        self._large: list[tuple[int, str]] = []
        self._waiting = 0

    def place(self, folder: Path, relative: str) -> int:
        """The place in `table` of a picture, by its path in a run folder. The same picture under the same
        path in two runs has one place."""
        if (folder, relative) not in self._known:
            small, large = _urls(folder, relative)
            place = self._same.setdefault((relative, large), len(self.table))
            self._known[folder, relative] = place
            if place == len(self.table):
                self.table.append([relative, self._add(small), None])
                if large is not None and large != small and self._waiting <= self.room:
                    self._large.append((place, large))
                    self._waiting += len(large)
        return self._known[folder, relative]

    def finish(self) -> None:
        """Take in the larger pictures, now that all thumbnails are there."""
        for row in self.table:
            row[2] = row[1]
        for place, url in self._large:
            if (found := self._add(url)) is not None:
                self.table[place][2] = found

    def _add(self, url: str | None) -> int | None:
        if url is None:
            return None
        if url not in self._places:
            if len(url) > self.room:
                return None
            self.room -= len(url)
            self._places[url] = len(self.urls)
            self.urls.append(url)
        return self._places[url]


def _urls(folder: Path, relative: str) -> tuple[str | None, str | None]:
    """Thumbnail and larger picture; None for what is no picture of the run."""
    from PIL import Image

    try:
        raw = inside(folder, relative).read_bytes()
        with Image.open(io.BytesIO(raw)) as picture:
            picture.load()
            return (
                _url(raw, picture, THUMBNAIL, THUMBNAIL_BYTES),
                _url(raw, picture, MAX_SIDE, MAX_BYTES),
            )
    except (OSError, ValueError, SyntaxError, UserError, Image.DecompressionBombError):
        return None, None


def _url(raw: bytes, picture: Any, side: int, most: int) -> str:
    kind = (picture.format or "").lower()
    if kind not in ("png", "jpeg", "webp", "gif") or len(raw) > most or max(picture.size) > side:
        small = picture.convert("RGB")
        small.thumbnail((side, side))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=80)
        raw, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"
