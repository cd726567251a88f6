"""Scales photographs down to the size that the student takes. Shape and orientation are kept.

The same input gives the same bytes, with one version of Pillow on one machine.
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

_PLAIN_MODE = {"1": "L", "P": "RGB", "PA": "RGBA"}
"""Modes to convert to, since colours of a palette, and black and white, cannot be mixed."""


def fitted(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """The new width and height in pixels: at least 1, at most as before, and their product at most
    `max_pixels`."""
    if width * height <= max_pixels:
        return width, height
    wide, high = isqrt(width * max_pixels // height), isqrt(height * max_pixels // width)
    # If one side is 1, the other takes all pixels.
    return min(max(1, wide), max_pixels), min(max(1, high), max_pixels)


def decode(picture: Image.Image, max_pixels: int) -> None:
    """Read an opened picture to its end.

    A JPEG is read at 1/2, 1/4 or 1/8 of its size, but not smaller than `fitted`, which takes less memory and
    time.

    Raises:
        OSError, ValueError, SyntaxError: the picture is damaged.
    """
    picture.draft(None, fitted(*picture.size, max_pixels))
    picture.load()


def is_deep(picture: Image.Image) -> bool:
    """Whether a decoded picture has 16 bits of grey. Pillow cuts off what is above 255 where such a picture
    is converted, so nearly all of it turns white."""
    return picture.mode.startswith("I")


def scaled_down(picture: Image.Image, max_pixels: int) -> bytes:
    """A picture that `decode` has read, with at most `max_pixels` pixels, as a file of its own format.

    It is turned upright according to its EXIF orientation and loses its EXIF data. It keeps its colour
    profile and PNG text.
    """
    profile = picture.info.get("icc_profile")
    image = _upright(_mixable(picture), _orientation(picture))
    image = image.resize(fitted(*image.size, max_pixels), Image.Resampling.LANCZOS, reducing_gap=3.0)
    image.info = {}
    buffer = BytesIO()
    if picture.format == "PNG":
        image.save(buffer, "PNG", icc_profile=profile, pnginfo=text_of(picture))
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


def _mixable(picture: Image.Image) -> Image.Image:
    if is_deep(picture):
        return picture.convert("I").point(lambda grey: grey * (1 / 257) + 0.5).convert("L")
    if picture.has_transparency_data and picture.mode in (*_PLAIN_MODE, "L", "RGB"):
        return picture.convert("RGBA")
    return picture.convert(_PLAIN_MODE.get(picture.mode, picture.mode))


def _orientation(picture: Image.Image) -> int | None:
    """The EXIF orientation. None if there are no EXIF data or they are broken; the picture may still be
    fine."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return None


def _upright(image: Image.Image, orientation: int | None) -> Image.Image:
    turn = _TURNED_BY.get(orientation or 1)
    return image if turn is None else image.transpose(turn)
