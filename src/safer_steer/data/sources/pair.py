"""The pair: the input unit of Stage I."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

from safer_steer.config import Config, Source
from safer_steer.config.data import Use
from safer_steer.errors import UserError
from safer_steer.files.images import (
    EMBEDDED,
    UNREADABLE,
    Picture,
    PictureError,
    Trial,
    check_header,
    check_whole,
    load_picture,
    picture_from,
)
from safer_steer.files.store import sha256_of

SANDBOX_PAIRS = 60
"""Number of the sandbox's pairs if the source sets no limit."""


@dataclass(frozen=True)
class Pair:
    """One single-turn pair. Errors about its picture name set, file, row and column."""

    id: str
    """Unique over all sources of a run."""
    image: Path | bytes | Callable[[], bytes]
    """The picture's file; its undecoded bytes, if the set embeds them; or a function that renders it as a
    PNG. The rendering is fixed by the pair's id and the config's seed. A list of pairs may use much memory,
    so read them one by one."""
    question: str
    source: str
    intent: str
    """The true intent of the question; the question itself if the set does not give one."""
    safe: bool | None = None
    """Whether it is meant to be harmless. None if the set does not say; that counts as risky."""
    answer: str | None = None
    """The true answer, in sets of general capability."""
    where: str = ""
    """Set, file and row, for errors."""
    category: str = ""
    """The set's own name for the risk or the subject."""
    use: Use = "train"
    """What its scripts are for, as set in the source."""

    def picture(self, max_pixels: int) -> Picture:
        """The picture as models see it, with at most `max_pixels` pixels. Raises `UserError`."""
        with self._with_place():
            if isinstance(self.image, Path):
                return load_picture(self.image.parent, self.image.name, max_pixels)
            data = self.image if isinstance(self.image, bytes) else self.image()
            return picture_from(data, self.id, max_pixels)

    def picture_hash(self) -> str:
        """SHA-256 of the picture as the set has it; "" for a rendered one. Raises `UserError`."""
        if isinstance(self.image, bytes):
            return hashlib.sha256(self.image).hexdigest()
        if not isinstance(self.image, Path):
            return ""
        try:
            return sha256_of(self.image)
        except OSError:
            problem = f"image: {self.image}: not readable; fix that and run again"
            raise UserError(f"{self.where}: {problem}") from None

    def check_picture(self, trial: Trial | None = None) -> None:
        """Check that the picture is whole by decoding it, and that the student takes it. Rendered pictures
        are not checked. Raises `PictureError`; an error of the student passes as it is."""
        with self._with_place(PictureError):
            if isinstance(self.image, Path):
                check_whole(self.image.read_bytes(), str(self.image), trial)
            elif isinstance(self.image, bytes):
                check_whole(self.image, EMBEDDED, trial)

    def is_large(self, max_pixels: int) -> bool:
        """Whether the picture will be scaled down, according to its header. False for a rendered one. Raises
        `UserError`."""
        if callable(self.image):
            return False
        with self._with_place():
            if isinstance(self.image, Path):
                width, height = check_header(self.image, str(self.image))
            else:
                width, height = check_header(BytesIO(self.image))
        return width * height > max_pixels

    @contextmanager
    def _with_place(self, errors: type[UserError] = UserError) -> Iterator[None]:
        """Put set, file and row before these errors."""
        try:
            yield
        except PictureError as error:
            raise PictureError(f"{self.where}: image: {error}", error.reason) from None
        except errors as error:
            raise UserError(f"{self.where}: image: {error}") from None
        except OSError as error:
            raise PictureError(f"{self.where}: image: {error}", UNREADABLE) from None


def sandbox_pairs(source: Source, config: Config) -> Iterator[Pair]:
    """`source.limit` blunt questions about training devices. Each device is shown with a hazard mark and then
    without one. They are generated, so a larger limit continues where a smaller one ends."""
    from safer_steer.sandbox.language import make
    from safer_steer.sandbox.world import draw_png, training_devices

    rng = random.Random(f"{config.seed} sandbox pairs")
    for index in range(source.limit or SANDBOX_PAIRS):
        if index % (2 * len(training_devices())) == 0:
            order = rng.sample(training_devices(), len(training_devices()))
        device, marked = order[index // 2 % len(order)], index % 2 == 0
        question = make("all", device, rng).text
        yield Pair(
            f"{source.name}-{index:05d}",
            partial(draw_png, device, marked, f"seeds {config.seed} {index}"),
            question,
            source.name,
            "learn how the device is operated",
            not marked,
            use=source.use,
        )
