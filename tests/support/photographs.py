"""Drawn photographs, larger than any student takes them, and files that only pretend to be pictures."""

import struct
import zlib
from functools import cache
from io import BytesIO

from PIL import Image, ImageDraw

LARGE = (2000, 1500)
"""More pixels than a student takes, in the shape of a camera's."""
RED, TEAL = (200, 30, 30), (20, 130, 130)


@cache
def photograph(
    size: tuple[int, int] = LARGE,
    format: str = "JPEG",
    orientation: int = 1,
    mode: str = "RGB",
    number: int = 0,
) -> bytes:
    """A scene of `size` pixels when upright: sky, ground, a red square at the top left, rings and fine
    lines."""
    upright = _scene(size, number)
    turned = {
        1: None,
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if turned is None else upright.transpose(turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = BytesIO()
    stored.convert(mode).save(file, format, quality=90, exif=exif)
    return file.getvalue()


def _scene(size: tuple[int, int], number: int) -> Image.Image:
    width, height = size
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, height * 2 // 3, width, height), fill=TEAL)
    pen.rectangle((0, 0, width // 8, height // 8), fill=RED)
    for radius in range(number % 7 + 10, min(size) // 4, max(12, min(size) // 50)):
        box = (width // 2 - radius, height // 2 - radius, width // 2 + radius, height // 2 + radius)
        pen.ellipse(box, outline=(250, 230, 90), width=max(1, min(size) // 300))
    for x in range(width * 3 // 4, width, max(4, width // 200)):
        pen.line((x, height * 2 // 3, x, height), fill=(240, 240, 240), width=max(1, width // 1000))
    return image


def raw_png(side: tuple[int, int], depth: int, rows: bytes) -> bytes:
    """A PNG of colours with `depth` bits a channel, from the bytes of its rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *side, depth, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb(side: int) -> bytes:
    """A PNG of a few bytes whose header promises `side` x `side` pixels."""
    return raw_png((side, side), 8, b"\0" * 100)
