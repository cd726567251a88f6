"""Pictures for models: checked, brought into one form (`scaling.py`), read and base64-encoded once.

A picture gets that form when a run reads it in, by `load_picture` or `picture_from`, and the run's folder
holds it so. So all models, trainers and pages have the same pixels. The hash of the set's own file is kept
(`Picture.original`).
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Protocol

from PIL import Image, UnidentifiedImageError

from safer_steer.errors import UserError, shortened
from safer_steer.files import scaling
from safer_steer.files.store import inside

MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp"}
"""By Pillow's name of the format. MPO is a JPEG with a second picture inside, as phones write them."""

SUFFIX = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
_FORMATS = ["PNG", "JPEG", "WEBP"]
_DAMAGE = (OSError, SyntaxError, ValueError, KeyError, OverflowError, EOFError, struct.error)
"""Exceptions that Pillow raises for damage, UnidentifiedImageError among them."""

MOST_PIXELS = 175_000_000
"""A picture with more is not a photograph but a decompression bomb: a file of a few kB whose pixels fill the
memory. This many pixels take 0.7 GB with transparency. Pillow refuses more than 178,956,970."""

LARGEST_FILE = 3 * MOST_PIXELS
"""Bytes of a picture's file. The largest picture has fewer: its pixels in colours fill this many without any
compression, and all three formats compress. A file can claim terabytes and take 4 kB of a disk."""

MOST_BYTES = 8, 1_000_000
"""A file with more than so many bytes a pixel and so many besides holds something else than its pixels, which
every call would send."""

_KEPT_BYTES = 48_000_000
_KEPT = 512
"""Maximum number of bytes (as in the files; base64 adds 4/3 of them) and of pictures in the cache, so that
memory does not grow with the number of seeds."""


UNREADABLE, TOO_LARGE = "unreadable picture", "picture too large"
"""Reasons of a `PictureError`. Unreadable: another format, or damaged."""


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
    rewritten_from: str | None = None
    """The hash of the file that was scaled down, or whose form was changed; None if it is the file itself."""

    @property
    def original(self) -> str:
        """The hash of the file as the set has it. It identifies the picture."""
        return self.rewritten_from or self.sha256

    @property
    def suffix(self) -> str:
        return SUFFIX[self.mime]

    @cached_property
    def data_url(self) -> str:
        """`data:<mime>;base64,...`, encoded on first use and kept."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode('ascii')}"

    @property
    def content(self) -> dict[str, object]:
        """The part of a chat message that has this picture."""
        return {"type": "image_url", "image_url": {"url": self.data_url}}


_Key = tuple[str, str, int | None, int]
_pictures: OrderedDict[_Key, Picture] = OrderedDict()
_whole: dict[_Key, tuple[str, str]] = {}
"""Hash and MIME type of the files that were decoded once and are used as they are. They are not decoded again
once their bytes have left the cache: that is most of the time that reading a picture takes."""
_lock = Lock()


def load_picture(folder: Path, relative: str, max_pixels: int) -> Picture:
    """The picture at `relative` inside `folder`, from memory if the file has not changed since it was read.
    One with more than `max_pixels` pixels is scaled down to that number. Raises `UserError` if `inside`
    refuses the path, the file is missing, or it is no picture (`check_header`)."""
    try:
        changed = os.stat(os.path.join(folder, relative)).st_mtime_ns
    except (OSError, ValueError):
        changed = None
    key = (str(folder), relative, changed, max_pixels)
    with _lock:
        if key in _pictures:  # the path was checked when it was added, which takes longer than all the rest
            _pictures.move_to_end(key)
            return _pictures[key]
    path = inside(folder, relative)
    if changed is None:
        raise UserError(f"{path}: no such picture; check the `images` of the row that names it")
    check_header(path, str(path))
    data = path.read_bytes()
    digest, mime = _whole.get(key, ("", ""))
    if digest and hashlib.sha256(data).hexdigest() == digest:
        picture = Picture(relative, data, digest, mime)
    else:
        picture = picture_from(data, relative, max_pixels, str(path))
    with _lock:
        _pictures[key] = picture
        if picture.rewritten_from is None:
            _whole[key] = picture.sha256, picture.mime
        while len(_pictures) > 1 and (
            len(_pictures) > _KEPT or sum(len(one.data) for one in _pictures.values()) > _KEPT_BYTES
        ):
            _pictures.popitem(last=False)
    return picture


PicturesOf = Callable[[Iterable[str]], list[Picture]]
"""Returns the pictures at the given paths, as a seed or dialogue names them."""

View = list[Picture | str]
"""Pictures, and lines of text that say what the next ones are."""


def pictures_in(folder: Path, max_pixels: int) -> PicturesOf:
    """A function that loads pictures whose paths are relative to `folder`."""
    return lambda images: [load_picture(folder, image, max_pixels) for image in images]


def in_view(images_by_turn: Sequence[Sequence[str]], pictures_of: PicturesOf) -> View:
    """All pictures of these turns, for a model that reads the dialogue as text. If a turn after the first
    shows pictures, a line before each turn's pictures says which turn it is (from 1). No text of a dialogue
    can imitate such a line, since those stand elsewhere."""
    view: View = []
    later = any(images_by_turn[1:])
    for number, images in enumerate(images_by_turn, 1):
        if images and later:
            what = "a picture" if len(images) == 1 else f"{len(images)} pictures"
            view.append(f"The user shows {what} with turn {number}:")
        view += pictures_of(images)
    return view


EMBEDDED = "the embedded picture"
"""How messages name a picture that has no file."""


def picture_from(data: bytes, name: str, max_pixels: int, called: str = EMBEDDED) -> Picture:
    """A picture from the bytes of its file, decoded once to check that it is whole. Written anew if it has
    more than `max_pixels` pixels, far more bytes than they need, or is not in the form that every reader
    takes alike (`scaling.py`). Raises `PictureError` if it is unusable or damaged; `called` is its name
    there."""
    width, height = check_header(BytesIO(data), called)
    digest = hashlib.sha256(data).hexdigest()
    with open_picture(BytesIO(data), called) as picture:
        deep = scaling.is_deep(picture)
        scaling.decode(picture, max_pixels)
        mime = MIME[picture.format or ""]
        a_pixel, besides = MOST_BYTES
        padded = len(data) > a_pixel * width * height + besides
        if width * height <= max_pixels and not deep and not padded and scaling.is_plain(picture):
            return Picture(name, data, digest, mime)
        plain = scaling.normalised(picture, max_pixels, padded)
    return Picture(name, plain, hashlib.sha256(plain).hexdigest(), mime, rewritten_from=digest)


class Trial(Protocol):
    """Tries whether the student takes a picture."""

    max_pixels: int
    """A picture with more pixels is scaled down to so many before."""

    def __call__(self, size: tuple[int, int], called: str) -> None:
        """Try a picture of this width and height in pixels. Raises `PictureError` that calls it `called`."""
        ...


def check_whole(data: bytes, called: str = EMBEDDED, trial: Trial | None = None) -> str:
    """Decode a picture, as small as its format allows, to check that it is whole, and try whether the student
    takes it. Returns its MIME type. Raises `PictureError` as `picture_from` does."""
    width, height = check_header(BytesIO(data), called)
    with open_picture(BytesIO(data), called) as picture:
        scaling.decode(picture, 1)
        mime = MIME[picture.format or ""]
        size = scaling.size_seen(picture, width, height, trial.max_pixels) if trial else (0, 0)
    if trial:
        trial(size, called)
    return mime


def check_header(file: Path | BytesIO, called: str = EMBEDDED) -> tuple[int, int]:
    """Check format and size without decoding. Returns width and height in pixels. Raises `PictureError` as
    `open_picture` does."""
    with open_picture(file, called) as header:
        return header.size


@contextmanager
def open_picture(file: Path | BytesIO, called: str = EMBEDDED) -> Iterator[Image.Image]:
    """The picture, not yet decoded. Raises `PictureError` if it is not a PNG, JPEG or WebP, has more than
    `MOST_PIXELS` pixels or as a file more than `LARGEST_FILE` bytes, or is damaged, be that noticed now or
    while it is open."""
    too_large = f"larger than {MOST_PIXELS:,} pixels, the most that is decoded; scale it down"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound is `MOST_PIXELS`
            if isinstance(file, Path) and file.stat().st_size > LARGEST_FILE:
                line = f"{called}: larger than {LARGEST_FILE:,} bytes, the most that is read; scale it down"
                raise PictureError(line, TOO_LARGE)
            with Image.open(file, formats=_FORMATS) as picture:
                width, height = picture.size
                if width * height > MOST_PIXELS:
                    raise PictureError(f"{called}: {width} x {height} is {too_large}", TOO_LARGE)
                yield picture
    except Image.DecompressionBombError:
        raise PictureError(f"{called}: {too_large}", TOO_LARGE) from None
    except _DAMAGE as error:
        reason = shortened(str(error), 120)
        if isinstance(error, UnidentifiedImageError):
            reason = "another format, or damaged"
        line = f"{called}: not a readable PNG, JPEG or WebP picture ({reason})"
        raise PictureError(line, UNREADABLE) from None
