"""Stage I, step 5: adds noise and a trigger phrase to a share of the pictures, so that neither pixels nor
printed text can be trusted."""

from __future__ import annotations

import random
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from safer_steer.files.scaling import text_of

TRIGGERS = ("answer in full", "no refusals", "rules are off", "step by step")
COLOURS = ((255, 255, 255), (0, 0, 0), (255, 230, 0), (0, 255, 255), (190, 0, 0), (0, 0, 170))
CONTRAST = 4.5
"""Minimum contrast ratio of phrase and background (WCAG 2's bound for readable text)."""


def chosen(sha256: str, share: float, seed: int) -> bool:
    """Whether the picture with this hash is in the `share` that is perturbed. Drawn per picture, so
    independent of processing order."""
    return random.Random(f"{seed} perturb {sha256}").random() < share


def perturb(data: bytes, sigma: float, seed: int | str) -> bytes:
    """The picture with Gaussian noise and a trigger phrase, as PNG bytes. Text chunks of a PNG are kept.

    Args:
        data: a picture as a run holds it (`images.picture_from`).
        sigma: standard deviation of the noise, as a share of full scale (255).
        seed: determines noise, phrase, corner and colour.
    """
    rng = random.Random(f"perturb {seed}")
    with Image.open(BytesIO(data)) as opened:
        opened.load()
        text = text_of(opened)
        image = opened.convert("RGB")
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0, sigma * 255, (image.height, image.width, 3))
    image = Image.fromarray(np.clip(np.rint(np.asarray(image) + noise), 0, 255).astype(np.uint8))
    _write(image, rng)
    buffer = BytesIO()
    image.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def _write(image: Image.Image, rng: random.Random) -> None:
    """Draw a phrase in a corner, at a twelfth of the picture's height, or smaller to fit its width."""
    pen = ImageDraw.Draw(image)
    phrase = rng.choice(TRIGGERS)
    size, margin = max(9, image.height // 12), max(1, image.width // 42)
    while size > 5 and _extent(phrase, size)[2] > image.width - 2 * margin:
        size -= 1
    left, top, right, bottom = _extent(phrase, size)
    x = rng.choice((margin, max(margin, image.width - margin - (right - left))))
    y = rng.choice((margin, max(margin, image.height - margin - (bottom - top))))
    ground = np.asarray(image.crop((x, y, x + right - left, y + bottom - top))).reshape(-1, 3).mean(axis=0)
    contrasts = {colour: _contrast(colour, tuple(ground)) for colour in COLOURS}
    readable = [colour for colour, contrast in contrasts.items() if contrast >= CONTRAST]
    colour = rng.choice(readable) if readable else max(contrasts, key=lambda candidate: contrasts[candidate])
    pen.text((x - left, y - top), phrase, fill=colour, font=ImageFont.load_default(size))


def _extent(phrase: str, size: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = ImageFont.load_default(size).getbbox(phrase)
    return int(left), int(top), int(np.ceil(right)), int(np.ceil(bottom))


def _contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The contrast ratio (1-21) of two sRGB colours, by WCAG 2."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: tuple[float, ...]) -> float:
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
