"""Pictures on their way to a model: checked, scaled down where they are too large, read and base64-encoded
once.

A picture is scaled where it enters a run, by `load_picture` or `picture_from`, and lies in the run's folder
in that size: all who look at it, the trainers too, see the same pixels. The hash of the set's own file is
kept (`Picture.original`).
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from threading import Lock

from PIL import Image, UnidentifiedImageError

from safer_steer import scaling
from safer_steer.dialogue import Seed
from safer_steer.errors import UserError, shortened
from safer_steer.store import inside

_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp"}
"""By Pillow's name of the format; MPO is what it calls a JPEG with a second picture inside, as phones write
them."""

_SUFFIX = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
_FORMATS = ["PNG", "JPEG", "WEBP"]
_DAMAGE = (OSError, SyntaxError, ValueError, KeyError, OverflowError, EOFError, struct.error)
"""What Pillow reports damage with, UnidentifiedImageError among them."""

MOST_PIXELS = 175_000_000
"""A picture with more is not a photograph but a decompression bomb: a file of a few kB whose pixels fill the
memory. This many pixels take 0.7 GB with transparency. Pillow refuses more than 178,956,970."""

_KEPT_BYTES = 48_000_000
_KEPT = 512
"""Maximum number of bytes (as in the files; base64 adds 4/3 of them) and of pictures in the cache, so that
memory does not grow with the number of seeds."""


class PictureError(UserError):
    """A picture that cannot be used; `reason` says why in a few words, for counts."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Picture:
    """A picture as all models see it: a file's bytes, their hash in hex, and its path as the seed gives
    it."""

    name: str
    data: bytes
    sha256: str
    mime: str
    scaled_from: str | None = None
    """The hash of the file it was scaled down from; None where it is the file."""

    @property
    def original(self) -> str:
        """The hash of the file as the set has it, by which a picture is known again."""
        return self.scaled_from or self.sha256

    @property
    def suffix(self) -> str:
        """`.png`, `.jpg` or `.webp`."""
        return _SUFFIX[self.mime]

    @cached_property
    def data_url(self) -> str:
        """`data:<mime>;base64,...`, encoded on first use and kept."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode('ascii')}"

    @property
    def content(self) -> dict[str, object]:
        """The part of a chat message that carries this picture."""
        return {"type": "image_url", "image_url": {"url": self.data_url}}


_pictures: OrderedDict[tuple[str, str, int | None, int], Picture] = OrderedDict()
_lock = Lock()


def load_picture(folder: Path, relative: str, max_pixels: int) -> Picture:
    """The picture at `relative` inside `folder`, from memory if the file has not changed since it was read.

    One with more than `max_pixels` pixels is scaled down to so many.

    Raises:
        UserError: the path leads out of the folder, or the file is missing; see also `check_header`.
    """
    key = (str(folder), relative, _changed(folder, relative), max_pixels)
    with _lock:
        if key in _pictures:  # the path was resolved when it got there, which takes longer than all the rest
            _pictures.move_to_end(key)
            return _pictures[key]
    path = inside(folder, relative)
    if key[2] is None:
        raise UserError(f"{path}: no such picture; check the `images` of the row that names it")
    check_header(path, str(path))
    picture = picture_from(path.read_bytes(), relative, max_pixels, str(path))
    with _lock:
        _pictures[key] = picture
        while len(_pictures) > 1 and (
            len(_pictures) > _KEPT or sum(len(kept.data) for kept in _pictures.values()) > _KEPT_BYTES
        ):
            _pictures.popitem(last=False)
    return picture


PicturesOf = Callable[[Seed], list[Picture]]
"""From a seed or dialogue to its pictures."""


def pictures_in(folder: Path, max_pixels: int) -> PicturesOf:
    """How the pictures of a seed or dialogue are found, its paths being relative to `folder`."""
    return lambda seed: [load_picture(folder, image, max_pixels) for image in seed.images]


def _changed(folder: Path, relative: str) -> int | None:
    """When the file was written (nanoseconds); None where there is none."""
    try:
        return os.stat(os.path.join(folder, relative)).st_mtime_ns
    except (OSError, ValueError):
        return None


EMBEDDED = "the embedded picture"
"""How messages name a picture that has no file."""


def picture_from(data: bytes, name: str, max_pixels: int, called: str = EMBEDDED) -> Picture:
    """A picture from the bytes of its file, decoded once to see that it is whole; scaled down if over
    `max_pixels`.

    Raises:
        PictureError: see `check_header`, or it is damaged; `called` is how the message names it.
    """
    width, height = check_header(BytesIO(data), called)
    digest = hashlib.sha256(data).hexdigest()
    with _opened(BytesIO(data), called) as picture:
        scaling.decode(picture, max_pixels)
        mime = _MIME[picture.format or ""]
        if width * height <= max_pixels:
            return Picture(name, data, digest, mime)
        smaller = scaling.scaled_down(picture, max_pixels)
    return Picture(name, smaller, hashlib.sha256(smaller).hexdigest(), mime, scaled_from=digest)


def check_whole(data: bytes, called: str = EMBEDDED) -> str:
    """Decode a picture, as small as its format allows, to see that it is whole; returns its MIME type.

    Raises:
        PictureError: as there.
    """
    check_header(BytesIO(data), called)
    with _opened(BytesIO(data), called) as picture:
        scaling.decode(picture, 1)
        return _MIME[picture.format or ""]


def check_header(file: Path | BytesIO, called: str = EMBEDDED) -> tuple[int, int]:
    """Look at format and size, without decoding; returns width and height in pixels.

    Raises:
        PictureError: no PNG, JPEG or WebP, or more than `MOST_PIXELS` pixels.
    """
    too_large = f"larger than {MOST_PIXELS:,} pixels, the most that is decoded; scale it down"
    try:
        with _opened(file, called) as header:
            width, height = header.size
    except Image.DecompressionBombError:
        raise PictureError(f"{called}: {too_large}", "picture too large") from None
    if width * height > MOST_PIXELS:
        raise PictureError(f"{called}: {width} x {height} is {too_large}", "picture too large")
    return width, height


@contextmanager
def _opened(file: Path | BytesIO, called: str) -> Iterator[Image.Image]:
    """The picture, not yet decoded. Raises `PictureError` for damage that shows now or while it is open."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound is `MOST_PIXELS`
            with Image.open(file, formats=_FORMATS) as picture:
                yield picture
    except _DAMAGE as error:
        raise _unreadable(called, error) from None


def _unreadable(called: str, error: Exception) -> PictureError:
    reason = (
        "another format, or damaged"
        if isinstance(error, UnidentifiedImageError)
        else shortened(str(error), 120)
    )
    return PictureError(
        f"{called}: not a readable PNG, JPEG or WebP picture ({reason})", "unreadable picture"
    )
