"""Pictures on their way to a model: checked, read and base64-encoded once, whatever the number of calls they appear in."""

from __future__ import annotations

import base64
import hashlib
import os
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from threading import Lock

from PIL import Image, UnidentifiedImageError

from safer_steer.dialogue import Seed
from safer_steer.errors import UserError
from safer_steer.store import inside

_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp"}
"""By Pillow's name of the format; MPO is what it calls a JPEG with a second picture inside, as phones write them."""

_FORMATS = ["PNG", "JPEG", "WEBP"]
_DAMAGE = (OSError, SyntaxError, ValueError, KeyError, OverflowError, EOFError, struct.error)
"""What Pillow reports damage with, UnidentifiedImageError among them."""

_KEPT_BYTES = 48_000_000
_KEPT = 512
"""Bytes (as in the files; base64 adds 4/3 of it) and pictures the cache holds at most, so that memory stays flat over any number of seeds."""


class PictureError(UserError):
    """A picture that cannot be used; `reason` says why in three words, to be counted by."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Picture:
    """A picture as its file has it: `data` is the file's bytes, `sha256` their hash in hex, `name` its path as the seed gives it."""

    name: str
    data: bytes
    sha256: str
    mime: str

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

    Raises:
        UserError: the path leads out of the folder, or the file is missing, is no readable PNG, JPEG or WebP, or has more than
            `max_pixels` pixels. The size is read from the header, before anything is decoded.
    """
    key = (str(folder), relative, _changed(folder, relative), max_pixels)
    with _lock:
        if key in _pictures:  # the path was resolved when it got there, which takes longer than all the rest
            _pictures.move_to_end(key)
            return _pictures[key]
    path = inside(folder, relative)
    if key[2] is None:
        raise UserError(f"{path}: no such picture; check the `images` of the row that names it")
    picture = _read(path, relative, max_pixels)
    with _lock:
        _pictures[key] = picture
        while len(_pictures) > 1 and (len(_pictures) > _KEPT or sum(len(kept.data) for kept in _pictures.values()) > _KEPT_BYTES):
            _pictures.popitem(last=False)
    return picture


def pictures_in(folder: Path, max_pixels: int) -> Callable[[Seed], list[Picture]]:
    """How the pictures of a seed or dialogue are found, its paths being relative to `folder`."""
    return lambda seed: [load_picture(folder, image, max_pixels) for image in seed.images]


def _changed(folder: Path, relative: str) -> int | None:
    """When the file was written (nanoseconds); None where there is none."""
    try:
        return os.stat(os.path.join(folder, relative)).st_mtime_ns
    except (OSError, ValueError):
        return None


def _read(path: Path, name: str, max_pixels: int) -> Picture:
    check_header(path, str(path), max_pixels)
    return picture_from(path.read_bytes(), name, max_pixels, str(path))


def picture_from(data: bytes, name: str, max_pixels: int, called: str = "the embedded picture") -> Picture:
    """A picture from the bytes of its file, decoded once to see that it is whole.

    Raises:
        PictureError: see `check_header`; `called` is how the message names it.
    """
    check_header(BytesIO(data), called, max_pixels)
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as picture:
            picture.load()
            mime = _MIME[picture.format or ""]
    except _DAMAGE as error:
        raise _unreadable(called, error) from None
    return Picture(name=name, data=data, sha256=hashlib.sha256(data).hexdigest(), mime=mime)


def check_header(file: Path | BytesIO, called: str, max_pixels: int) -> None:
    """Look at format and size, without decoding.

    Raises:
        PictureError: no PNG, JPEG or WebP, or more than `max_pixels` pixels.
    """
    too_large = f"larger than {max_pixels} pixels; scale it down or raise student.max_pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as header:
                width, height = header.size
    except Image.DecompressionBombError:
        raise PictureError(f"{called}: {too_large}", "picture too large") from None
    except _DAMAGE as error:
        raise _unreadable(called, error) from None
    if width * height > max_pixels:
        raise PictureError(f"{called}: {width} x {height} is {too_large}", "picture too large")


def _unreadable(called: str, error: Exception) -> PictureError:
    reason = "another format, or damaged" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())[:120]
    return PictureError(f"{called}: no readable PNG, JPEG or WebP picture ({reason})", "unreadable picture")
