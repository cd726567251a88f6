"""Brings a picture into the one form that every reader takes alike: upright, 8 bits, RGB or grey, not
animated, and no larger than the student takes it.

Readers differ in all the rest: some heed the EXIF orientation, some show what is transparent in black. The
same input gives the same bytes, with one version of Pillow on one machine.
"""

from __future__ import annotations

import struct
from io import BytesIO
from math import isqrt

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

QUALITY = 95
"""Of JPEG and WebP (0-100). It loses less than the smaller size does."""

_TURNED_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns a picture upright, by its EXIF orientation."""

WORDS = "words"
"""Name of the text chunk of a PNG with the words that were drawn into it."""
PLAIN_MODES = ("RGB", "L")
"""Pillow's modes that every reader takes alike, if nothing in them is transparent."""
_COLOUR_MODES = ("RGB", "RGBA", "P", "PA")
"""Modes whose colour profile also holds after a conversion to RGB."""


def fitted(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """The new width and height in pixels: at least 1, at most as before, and their product at most
    `max_pixels`."""
    if width * height <= max_pixels:
        return width, height
    wide, high = isqrt(width * max_pixels // height), isqrt(height * max_pixels // width)
    # If one side is 1, the other takes all pixels.
    return min(max(1, wide), max_pixels), min(max(1, high), max_pixels)


def decode(picture: Image.Image, max_pixels: int) -> None:
    """Read an opened picture to its end: a JPEG at 1/2, 1/4 or 1/8 of its size, but not smaller than
    `fitted`, which takes less memory and time. Raises an OSError, ValueError or SyntaxError if it is
    damaged."""
    picture.draft(None, fitted(*picture.size, max_pixels))
    picture.load()


def is_deep(picture: Image.Image) -> bool:
    """Whether an opened picture, not yet decoded, has more than 8 bits a channel. Readers differ in how they
    take off the rest; Pillow turns nearly all of a 16-bit grey picture white."""
    return picture.mode.startswith("I") or any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()))


def is_plain(picture: Image.Image) -> bool:
    """Whether every reader takes a decoded picture alike, its size and depth apart."""
    return (
        picture.mode in PLAIN_MODES
        and not picture.has_transparency_data
        and not getattr(picture, "is_animated", False)
        and _orientation(picture) in (None, 1)
    )


def size_seen(picture: Image.Image, width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Width and height in pixels in which a decoded picture, stored as `width` x `height`, is shown: upright
    and scaled down."""
    turned = (_orientation(picture) or 1) >= 5
    return fitted(*((height, width) if turned else (width, height)), max_pixels)


def normalised(picture: Image.Image, max_pixels: int, bare: bool = False) -> bytes:
    """A picture that `decode` has read in the form that every reader takes alike, with at most `max_pixels`
    pixels, as a file of its own format. It is turned upright and loses its EXIF data; what is transparent
    becomes white, of an animation the first picture stays. A colour profile that still holds is kept, and so
    is the text of a PNG, unless it is to be `bare`."""
    image, turn = _in_plain_mode(picture), _TURNED_BY.get(_orientation(picture) or 1)
    if turn is not None:
        image = image.transpose(turn)
    if (size := fitted(*image.size, max_pixels)) != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    holds = picture.mode == image.mode or picture.mode in _COLOUR_MODES
    profile = picture.info.get("icc_profile") if holds and not bare else None
    image.info = {}
    buffer = BytesIO()
    if picture.format == "PNG":
        image.save(buffer, "PNG", icc_profile=profile, pnginfo=None if bare else text_of(picture))
    else:
        format = "WEBP" if picture.format == "WEBP" else "JPEG"
        image.save(buffer, format, icc_profile=profile, quality=QUALITY)
    return buffer.getvalue()


def text_of(picture: Image.Image) -> PngInfo:
    """The text chunks of a PNG that was read to its end, for writing. Empty for other formats."""
    info = PngInfo()
    for name, value in getattr(picture, "text", {}).items():
        info.add_text(name, value)
    return info


def in_words(count: int, max_pixels: int) -> str:
    """How many pictures were scaled down, for a line of counts; "" if none was."""
    return f"{count:,} picture{'s' * (count > 1)} scaled down to {max_pixels:,} pixels" if count else ""


def _in_plain_mode(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return picture.convert("I").point(lambda grey: grey * (1 / 257) + 0.5).convert("L")
    if picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")
    return picture.convert("L" if picture.mode in ("L", "1") else "RGB")


def _orientation(picture: Image.Image) -> int | None:
    """The EXIF orientation, 1-8; 0 if it is none of them, which readers take differently: some heed its
    first byte. None if there are no EXIF data or they are broken; the picture may still be fine."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return None
    return orientation if orientation is None or (type(orientation) is int and 0 < orientation < 9) else 0
