"""Which pictures look the same."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image, ImageDraw

from published import png
from safer_steer.data.sources.alike import groups
from safer_steer.errors import UserError


def file(image: Image.Image, format: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def page(*lines: str) -> Image.Image:
    image = Image.new("RGB", (700, 700), "white")
    for place, line in enumerate(lines):
        ImageDraw.Draw(image).text((40, 60 + 90 * place), line, fill="black", font_size=46)
    return image


def scene(number: int) -> Image.Image:
    rng, image = random.Random(number), Image.new("RGB", (400, 300), (120, 150, 180))
    for _ in range(8):
        x, y = rng.randrange(350), rng.randrange(250)
        colour = tuple(rng.randrange(256) for _ in range(3))
        image.paste(colour, (x, y, x + rng.randrange(30, 150), y + rng.randrange(30, 150)))
    return image


PICTURES = [
    *(scene(number) for number in range(8)),
    *(page(f"Steps to {what}.", "1.", "2.") for what in ("clean a window", "paint a wall", "mend a wheel")),
    *(Image.new("RGB", (80, 80), colour) for colour in ("red", "green", (200, 0, 0))),
]


def test_pictures_that_differ_stay_apart_also_pages_of_text_and_plain_colours() -> None:
    assert len(set(groups(map(file, PICTURES)))) == len(PICTURES)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_a_copy_in_another_format_and_size_is_the_same_picture(format: str) -> None:
    copies = [file(one.resize((one.width // 2, one.height // 2)), format, quality=70) for one in PICTURES]
    numbers = groups([*map(file, PICTURES), *copies])
    assert numbers[: len(PICTURES)] == numbers[len(PICTURES) :]
    assert len(set(numbers)) == len(PICTURES)


def test_a_damaged_picture_is_an_error_of_the_user() -> None:
    with pytest.raises(UserError):
        groups([png()[:100]])
