"""A project from a folder of one's own: pictures, and a CSV file with a row for each pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safer_steer.config import Source
from safer_steer.data.sources.alike import groups
from safer_steer.data.sources.load import read_samples
from safer_steer.data.sources.set_row import Sample
from safer_steer.dialogue import Kind, Seed, Turn
from safer_steer.errors import UserError
from safer_steer.files.images import check_whole
from safer_steer.files.store import write_atomic

SOURCE = "my-pairs"
HELD_OUT = 4
"""One in so many pictures of a kind goes to the bench, with all its pairs, instead of the training data."""
MOST = 8
"""At most so many pictures of a kind are held out."""
OPENING = "What does this picture show?"
"""The first turn of a script that is made from a pair; the pair's question is the second."""
SUITES = {"attacks": False, "twins": True}
"""The suites, and whether their pairs are safe. A pair that does not say so counts as risky."""


def read_folder(folder: Path) -> list[Sample]:
    """The rows of the folder's CSV file, with their pictures found. Raises `UserError` if there is no CSV
    file or more than one, or a row or picture is unusable."""
    lists = sorted(folder.glob("*.csv"))
    if len(lists) != 1:
        there = ", ".join(path.name for path in lists) or "none"
        raise UserError(f"{folder}: give a folder with one CSV file; there is {there}")
    return list(read_samples(Source(name=SOURCE, path=str(lists[0])), seed=0, pictureless=False))


def split(samples: Sequence[Sample]) -> tuple[list[Sample], dict[str, list[Sample]]]:
    """The pairs to train on, and those held out for the bench by suite. No picture is in both, nor a copy of
    it that looks the same. Raises `UserError` if there are too few different pictures, or one cannot be
    read."""
    pictures = groups(map(_bytes, samples))
    file = samples[0].where.removeprefix(f"{SOURCE}: ").rpartition(": ")[0]
    if len(set(pictures)) < HELD_OUT:
        raise UserError(
            f"{file}: {len(samples)} rows with {len(set(pictures))} different"
            f" pictures; give at least {HELD_OUT} pictures, since one in {HELD_OUT} is held out for the bench"
        )
    held_out: set[int] = set()
    for safe in SUITES.values():
        of_kind = [
            picture for picture, sample in zip(pictures, samples, strict=True) if bool(sample.safe) is safe
        ]
        held_out |= set([*dict.fromkeys(of_kind)][HELD_OUT - 1 :: HELD_OUT][:MOST])
    if not held_out:  # four pictures, of both kinds
        risky = [picture for picture, sample in zip(pictures, samples, strict=True) if not sample.safe]
        held_out = {risky[-1]}
    train, suites = [], defaultdict[str, list[Sample]](list)
    for picture, sample in zip(pictures, samples, strict=True):
        if picture in held_out:
            suites["twins" if sample.safe else "attacks"].append(sample)
        else:
            train.append(sample)
    return train, {name: suites[name] for name in SUITES if name in suites}


def _bytes(sample: Sample) -> bytes:
    """The picture's file. Raises `UserError` if it is damaged."""
    data = Path(sample.images[0]).read_bytes()
    try:
        check_whole(data, str(sample.images[0]))
    except UserError as error:
        raise UserError(f"{sample.where}: image: {error}") from None
    return data


def pair_row(sample: Sample, source: Path, folder: Path) -> dict[str, Any]:
    """Copy a pair's picture into the project, and return its row of `pairs.jsonl`."""
    row = {
        "id": _own_id(sample),
        "image": _copied(sample, source, folder),
        "question": sample.turns[0],
        "intent": sample.intent or None,
        "safe": sample.safe,
        "answer": sample.answer,
        "category": sample.category or None,
        "source": sample.source or None,
    }
    return {key: value for key, value in row.items() if value is not None}


def script(sample: Sample, source: Path, folder: Path, kind: Kind) -> Seed:
    """Copy a pair's picture beside the suites, and return a script that leads to its question."""
    return Seed(
        id=_own_id(sample),
        kind=kind,
        intent=sample.intent or sample.turns[0],
        images=[_copied(sample, source, folder)],
        turns=[Turn(user=OPENING), Turn(user=sample.turns[0])],
    )


def _own_id(sample: Sample) -> str:
    return sample.id.removeprefix(f"{SOURCE}-")


def _copied(sample: Sample, source: Path, folder: Path) -> str:
    """Copy the picture to `folder/pictures`, under its path in the source folder."""
    picture = Path(sample.images[0])
    name = f"pictures/{picture.relative_to(source.resolve()).as_posix()}"
    if not (folder / name).exists():
        write_atomic(folder / name, picture.read_bytes())
    return name
