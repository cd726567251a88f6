"""Which pictures look the same: one file twice, or a copy in another format, size or orientation mark.

A difference hash (dHash) says where the grey rises or falls from a point to its right neighbour. It says
nothing of flat areas. So what differs is compared with what there is and not with the whole, or pages of text
would be one picture; and the mean colours must agree too.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safer_steer.files.images import picture_from

SIDE = 24
"""Points in a row, and rows."""
STEP = 2
"""Levels of grey (0-255) that count as neither rise nor fall: compression moves flat areas by so much."""
DIFFERING = 0.3
"""At most this share of the rises and falls of two copies differs. Measured on drawings, pages of text and
noise: at most 0.29 for copies at half size or JPEG quality 60, at least 0.35 for other pictures."""
COLOUR = 6
"""At most so far apart (0-255) are the mean red, green and blue of copies."""
_ENOUGH = 1 << 16
"""Pixels to look at."""


def groups(pictures: Iterable[bytes]) -> list[int]:
    """A number for each picture (a file's bytes), the same for those that look the same. Raises `UserError`:
    a picture cannot be read."""
    hashes, colours = np.empty((0, 2 * SIDE * SIDE // 8), np.uint8), np.empty((0, 3))
    group = np.empty(0, np.int64)
    for number, picture in enumerate(pictures):
        bits, colour = _look(picture)
        differing, either = (np.bitwise_count(both).sum(axis=1) for both in (hashes ^ bits, hashes | bits))
        alike = (differing <= DIFFERING * either) & (np.abs(colours - colour).max(axis=1) <= COLOUR)
        met = np.unique(group[alike])
        group[np.isin(group, met)] = number
        hashes, colours = np.vstack([hashes, bits]), np.vstack([colours, colour])
        group = np.append(group, number)
    return [int(number) for number in group]


def _look(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The difference hash [2 * SIDE * SIDE / 8 bytes] and the mean colour [3] of a picture."""
    with Image.open(io.BytesIO(picture_from(data, "", _ENOUGH).data)) as opened:
        image = opened.convert("RGB")
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.int16)
    colour = np.asarray(image.resize((1, 1), Image.Resampling.BOX), np.float64)[0, 0]
    change = np.diff(grey, axis=1)
    return np.packbits([change > STEP, change < -STEP]), colour
