"""A suite from a published set: its harmful rows, and its harmless ones as a suite of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from safer_steer.config import Source
from safer_steer.dialogue import Kind, Seed, Turn
from safer_steer.errors import UserError
from safer_steer.images import EMBEDDED, UNREADABLE, PictureError, check_whole
from safer_steer.script_file import MOST_TURNS
from safer_steer.sources.load import Skipped, left_out_in_words, read_samples
from safer_steer.sources.sample import Sample
from safer_steer.sources.set_row import BadRow
from safer_steer.store import write_atomic

_SUFFIX = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


def write_suite(source: Source, out: Path, seed: int) -> tuple[dict[Path, int], str]:
    """Write a set's samples as scripts of the bench: `out` and a folder of pictures beside it,
    `<stem>_images`.

    Harmful samples, and those of which the set does not say, are of kind `obfuscated`; harmless ones are
    `benign`. Since a suite is one or the other, a set with both gives `out` and `<stem>_safe.jsonl`. Rows
    without a picture, where a set has such, become scripts without one.

    Returns the files with the number of their scripts, and on one line which rows were left out ("" for
    none).

    Raises:
        UserError: the set is unusable, `out` is no place for a suite, or nothing is left to write. No suite
            is written then.
    """
    if out.suffix != ".jsonl" or out.stem == "average":
        raise UserError(
            f"{out}: give a file name that ends in .jsonl, other than average.jsonl, which is the summary's"
            " name for the mean over suites"
        )
    twin = out.with_name(f"{out.stem}_safe.jsonl")
    if there := next((file for file in (out, twin) if file.exists()), None):
        raise UserError(f"{there}: exists already; move it away or choose another name")
    skipped: Skipped = {}
    counts = {False: 0, True: 0}  # by whether they are harmless
    parts = {safe: out.with_name(f"{out.stem}.{'safe' if safe else 'attack'}.part") for safe in counts}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            files = {
                safe: stack.enter_context(part.open("w", encoding="utf-8")) for safe, part in parts.items()
            }
            for sample in read_samples(source, seed, skipped, pictureless=True):
                try:
                    if len(sample.turns) > MOST_TURNS:
                        raise BadRow(
                            sample.where,
                            f"{len(sample.turns)} user turns, and a script may have {MOST_TURNS}",
                            "script too long",
                        )
                    images = [_keep(image, out, sample) for image in sample.images]
                except BadRow as error:
                    if source.bad_rows == "error":
                        raise
                    next(iter(skipped.values()))[error.reason] += 1
                    continue
                files[sample.safe is True].write(
                    _script(sample, images, source.name).model_dump_json() + "\n"
                )
                counts[sample.safe is True] += 1
        if not any(counts.values()):
            raise UserError(f"{left_out_in_words(skipped) or source.name}: nothing is left for a suite")
        names = {False: out, True: twin if counts[False] else out}
        for safe, part in parts.items():
            if counts[safe]:
                part.replace(names[safe])
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return {names[safe]: count for safe, count in counts.items() if count}, left_out_in_words(skipped)


def _keep(image: Path | bytes, out: Path, sample: Sample) -> str:
    """Copy a picture beside the suite, named after its content; returns the path a script shows. Nothing is
    scaled."""
    try:
        data = image if isinstance(image, bytes) else image.read_bytes()
        mime = check_whole(data, EMBEDDED if isinstance(image, bytes) else str(image))
    except (PictureError, OSError) as error:
        reason = error.reason if isinstance(error, PictureError) else UNREADABLE
        raise BadRow(sample.where, f"image: {error}", reason) from None
    name = f"{out.stem}_images/{hashlib.sha256(data).hexdigest()[:16]}{_SUFFIX[mime]}"
    if not (out.parent / name).exists():
        write_atomic(out.parent / name, data)
    return name


def _script(sample: Sample, images: Sequence[str], name: str) -> Seed:
    turns = [Turn(user=user) for user in sample.turns]
    for turn, assistant in zip(turns, sample.prefilled, strict=False):
        turn.meta["prefilled"] = assistant
    meta = (
        {"set": name}
        | ({"category": sample.category} if sample.category else {})
        | ({"answer": sample.answer} if sample.answer else {})
    )
    return Seed(
        id=sample.id,
        kind=Kind.BENIGN if sample.safe else Kind.OBFUSCATED,
        source=sample.source or name,
        intent=sample.intent or sample.turns[-1],
        images=list(images),
        turns=turns,
        meta=meta,
    )
