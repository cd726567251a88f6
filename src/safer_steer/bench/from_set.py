"""A suite from a published set: its harmful rows, and its harmless ones as a suite of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from safer_steer.config import Source
from safer_steer.data.sources.load import Skipped, left_out_in_words, read_samples
from safer_steer.data.sources.set_row import BadRow, Sample
from safer_steer.data.typographic import keep
from safer_steer.dialogue import Kind, Seed, Turn
from safer_steer.errors import UserError
from safer_steer.files.images import EMBEDDED, SUFFIX, UNREADABLE, PictureError, check_whole
from safer_steer.files.meta import SeedMeta
from safer_steer.files.script_file import MOST_TURNS
from safer_steer.files.store import naming
from safer_steer.metrics import AVERAGE
from safer_steer.workers import Progress


def write_suite(
    source: Source, out: Path, seed: int, progress: Progress | None = None
) -> tuple[dict[Path, int], str]:
    """Write a set's samples as scripts of the bench: `out` and a folder of pictures beside it,
    `<stem>_images`.

    Harmful samples, and those of which the set does not say, are of kind `obfuscated`; harmless ones are
    `benign`. Since a suite is one or the other, a set with both gives `out` and `<stem>_safe.jsonl`. Rows
    without a picture, where a set has such, become scripts without one.

    Args:
        progress: called with rows (read, all), see `read_samples`.

    Returns the files with the number of their scripts, and on one line which rows were left out ("" for
    none).

    Raises:
        UserError: the set is unusable, `out` is no place for a suite, or nothing is left to write.
        OSError: the disk is full.

    After an error nothing is left of the suite.
    """
    if out.suffix != ".jsonl" or out.stem == AVERAGE:
        raise UserError(
            f"{out}: give a file name that ends in .jsonl, other than average.jsonl, which is the summary's"
            " name for the mean over suites"
        )
    twin = out.with_name(f"{out.stem}_safe.jsonl")
    if there := next((file for file in (out, twin) if file.exists()), None):
        raise UserError(f"{there}: exists already; move it away or choose another name")
    skipped: Skipped = {}
    with _desk(out) as desk, naming(out):
        counts = _write_parts(source, seed, desk, _images(out), skipped, progress)
        if not any(counts.values()):
            raise UserError(f"{left_out_in_words(skipped) or source.name}: nothing is left for a suite")
        names = {False: out, True: twin if counts[False] else out}
        _put_pictures(desk / _images(out), out.with_name(_images(out)))
        for safe, count in counts.items():
            if count:
                (desk / _PARTS[safe]).replace(names[safe])
    return {names[safe]: count for safe, count in counts.items() if count}, left_out_in_words(skipped)


_PARTS = {False: "attack", True: "safe"}
"""Names of the files while they are written, by whether their scripts are harmless."""


@contextmanager
def _desk(out: Path) -> Iterator[Path]:
    """A folder beside `out` in which the suite is written. It is gone afterwards, and so are the folders that
    were made for it and are empty."""
    new_folders = [folder for folder in out.parents if not folder.exists()]
    desk = out.with_name(f".{out.stem}.part")
    shutil.rmtree(desk, ignore_errors=True)  # of a process that was killed
    desk.mkdir(parents=True)
    try:
        yield desk
    finally:
        shutil.rmtree(desk, ignore_errors=True)
        for folder in new_folders:
            with suppress(OSError):  # not empty
                folder.rmdir()


def _write_parts(
    source: Source, seed: int, desk: Path, folder: str, skipped: Skipped, progress: Progress | None
) -> dict[bool, int]:
    """Write the scripts, and their pictures to `folder`. Returns how many scripts there are, by whether they
    are harmless."""
    counts = {False: 0, True: 0}
    with ExitStack() as stack:
        files = {
            safe: stack.enter_context((desk / part).open("w", encoding="utf-8"))
            for safe, part in _PARTS.items()
        }
        for sample, pictures in usable(source, seed, skipped, progress):
            images = [
                [keep(data, desk, f"{folder}/", suffix, sync=False) for data, suffix in turn]
                for turn in pictures
            ]
            safe = sample.safe is True
            files[safe].write(_script(sample, images, source.name).model_dump_json() + "\n")
            counts[safe] += 1
    return counts


PictureFile = tuple[bytes, str]
"""A picture, unchanged, and the suffix for its format."""


def usable(
    source: Source, seed: int, skipped: Skipped, progress: Progress | None = None
) -> Iterator[tuple[Sample, list[list[PictureFile]]]]:
    """The samples that become scripts, with the pictures of each of their turns, decoded once.

    Args:
        skipped: filled with counts of the rows left out.
        progress: see `read_samples`.

    Raises:
        UserError: see `read_samples`; or, with `bad_rows: error`, a script is too long or a picture damaged.
    """
    for sample in read_samples(source, seed, skipped, pictureless=True, progress=progress):
        try:
            if len(sample.turns) > MOST_TURNS:
                raise BadRow(
                    sample.where,
                    f"{len(sample.turns)} user turns, and a script may have {MOST_TURNS}",
                    "script too long",
                )
            pictures = [[_file(image, sample) for image in turn] for turn in (sample.images, *sample.later)]
        except BadRow as error:
            if source.bad_rows == "error":
                raise
            next(iter(skipped.values()))[error.reason] += 1
            continue
        yield sample, pictures


def _images(out: Path) -> str:
    """The folder of a suite's pictures."""
    return f"{out.stem}_images"


def _file(image: Path | bytes, sample: Sample) -> PictureFile:
    """A sample's picture. Raises `BadRow` if it is damaged."""
    try:
        data = image if isinstance(image, bytes) else image.read_bytes()
        return data, SUFFIX[check_whole(data, EMBEDDED if isinstance(image, bytes) else str(image))]
    except (PictureError, OSError) as error:
        reason = error.reason if isinstance(error, PictureError) else UNREADABLE
        raise BadRow(sample.where, f"image: {error}", reason) from None


def _put_pictures(source: Path, folder: Path) -> None:
    """Put the pictures in their place. A folder that is there, of a suite with that name that was moved away,
    keeps what it has."""
    if source.exists() and not folder.exists():
        source.replace(folder)
        return
    for picture in source.glob("*"):
        picture.replace(folder / picture.name)


def _script(sample: Sample, images: Sequence[list[str]], name: str) -> Seed:
    """The sample as a script; `images` are the paths of each turn's pictures."""
    turns = [Turn(user=user) for user in sample.turns]
    for turn, assistant in zip(turns, sample.prefilled, strict=False):
        turn.meta["prefilled"] = assistant
    for turn, later in zip(turns[1:], images[1:], strict=False):
        turn.images = later
    meta: SeedMeta = {"set": name}
    if sample.category:
        meta["category"] = sample.category
    if sample.answer:
        meta["answer"] = sample.answer
    if sample.twin:
        meta["twin"] = sample.twin
    return Seed(
        id=sample.id,
        kind=Kind.BENIGN if sample.safe else Kind.OBFUSCATED,
        source=sample.source or name,
        intent=sample.intent or sample.turns[-1],
        images=images[0],
        turns=turns,
        meta=meta,
    )
