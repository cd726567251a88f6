"""A project from a folder of one's own: pictures, and a CSV file with a row for each pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safer_steer.config import Source
from safer_steer.dialogue import Kind, Seed, Turn
from safer_steer.errors import UserError
from safer_steer.sources.load import read_samples
from safer_steer.sources.sample import Sample
from safer_steer.store import write_atomic

SOURCE = "my-pairs"
HELD_OUT = 4
"""One in so many pairs of a kind goes to the bench instead of the training data."""
MOST = 8
"""At most so many scripts of a suite."""
OPENING = "What does this picture show?"
"""The first turn of a script that is made from a pair; the pair's question is the second."""


def read_folder(folder: Path) -> list[Sample]:
    """The rows of the folder's CSV file, with their pictures found.

    Raises:
        UserError: there is no CSV file or more than one, a row or picture is unusable, or there are too few
            rows.
    """
    found = sorted(folder.glob("*.csv"))
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "none"
        raise UserError(f"{folder}: give a folder with one CSV file; there is {there}")
    samples = list(read_samples(Source(name=SOURCE, path=str(found[0])), seed=0, pictureless=False))
    if len(samples) < HELD_OUT:
        raise UserError(
            f"{found[0]}: {len(samples)} rows; give at least {HELD_OUT}, since one in {HELD_OUT} is held out"
            " for the bench"
        )
    return samples


def split(samples: Sequence[Sample]) -> tuple[list[Sample], dict[str, list[Sample]]]:
    """The pairs to train on, and those held out for the bench by suite. A pair that does not say whether it
    is safe counts as risky."""
    kinds = {
        "attacks": [sample for sample in samples if not sample.safe],
        "twins": [sample for sample in samples if sample.safe],
    }
    suites = {name: kind[HELD_OUT - 1 :: HELD_OUT][:MOST] for name, kind in kinds.items()}
    if not any(suites.values()):  # four rows, of both kinds
        suites["attacks"] = kinds["attacks"][-1:]
    held_out = {sample.id for suite in suites.values() for sample in suite}
    kept = [sample for sample in samples if sample.id not in held_out]
    return kept, {name: suite for name, suite in suites.items() if suite}


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
