"""Draws everyday things with Pillow, 252 x 252 pixels each."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw

Pen = ImageDraw.ImageDraw
SIZE = 252
"""Width and height, pixels."""
INK = (40, 40, 45)


def _timer(pen: Pen) -> None:
    pen.ellipse((56, 56, 196, 196), fill=(245, 245, 240), outline=(200, 40, 40), width=10)
    for x, y in ((126, 76), (176, 126), (126, 176), (76, 126)):
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=INK)
    pen.line((126, 126, 126, 84), fill=INK, width=6)
    pen.line((126, 126, 158, 142), fill=(200, 40, 40), width=4)
    pen.rectangle((112, 30, 140, 56), fill=(200, 40, 40))


def _bicycle(pen: Pen) -> None:
    for x in (72, 180):
        pen.ellipse((x - 44, 112, x + 44, 200), outline=INK, width=6)
    frame = [(72, 156), (106, 96), (160, 96), (120, 156), (72, 156)]
    pen.line(frame, fill=(50, 80, 210), width=6)
    pen.line((106, 96, 120, 156), fill=(50, 80, 210), width=6)
    pen.line((180, 156, 156, 80, 176, 70), fill=(50, 80, 210), width=6)
    pen.line((92, 84, 120, 84), fill=INK, width=8)


def _plant(pen: Pen) -> None:
    pen.polygon([(86, 160), (166, 160), (154, 222), (98, 222)], fill=(190, 100, 60))
    pen.line((126, 160, 126, 70), fill=(40, 120, 50), width=6)
    for box in ((70, 86, 126, 116), (126, 70, 184, 100), (74, 120, 126, 146), (126, 116, 176, 144)):
        pen.ellipse(box, fill=(60, 160, 70))


def _kettle(pen: Pen) -> None:
    pen.ellipse((62, 90, 182, 206), fill=(150, 155, 165), outline=INK, width=4)
    pen.arc((76, 46, 168, 132), 180, 360, fill=INK, width=8)
    pen.polygon([(176, 120), (224, 92), (230, 104), (182, 150)], fill=(150, 155, 165), outline=INK)
    pen.rectangle((112, 78, 132, 92), fill=INK)


def _lamp(pen: Pen) -> None:
    pen.polygon([(96, 50), (156, 50), (186, 124), (66, 124)], fill=(240, 200, 80), outline=INK)
    pen.line((126, 124, 126, 206), fill=INK, width=8)
    pen.rectangle((84, 206, 168, 218), fill=INK)


def _umbrella(pen: Pen) -> None:
    pen.pieslice((46, 52, 206, 212), 180, 360, fill=(140, 60, 180), outline=INK, width=3)
    pen.line((126, 44, 126, 204), fill=INK, width=6)
    pen.arc((94, 186, 130, 222), 0, 180, fill=INK, width=6)


DRAWINGS: dict[str, Callable[[Pen], None]] = {
    "timer": _timer,
    "bicycle": _bicycle,
    "plant": _plant,
    "kettle": _kettle,
    "lamp": _lamp,
    "umbrella": _umbrella,
}


def draw(thing: str) -> Image.Image:
    """A picture of one of `DRAWINGS`."""
    image = Image.new("RGB", (SIZE, SIZE), (226, 236, 240))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 214, SIZE, SIZE), fill=(205, 190, 170))
    DRAWINGS[thing](pen)
    return image
