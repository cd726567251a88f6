"""Reads a file of scripts, one JSON object a line, with its pictures beside it: a suite of the bench, or
`seeds.scripts`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safer_steer.dialogue import Seed, read_seeds
from safer_steer.errors import UserError, refuse
from safer_steer.files.meta import SeedMeta, TemplateMeta, complaint
from safer_steer.files.store import inside, numbered_lines

MOST_TURNS = 10
"""User turns of a script, at most. The dialogue loop plays no more, and the survival curve ends there."""


def read_scripts(path: Path) -> list[Seed]:
    """The scripts of a file. Their picture paths are relative to its folder. Raises `UserError` if the file
    is missing or empty, a row is no script, or `check_rows` finds a fault; names file and line, or file and
    id."""
    seeds = read_seeds(path)
    check_rows(path, seeds)
    return seeds


def check_rows(path: Path, seeds: Sequence[Seed]) -> None:
    """Raises `UserError` if a script has too many turns, an id occurs twice, a fact of its meta is of another
    type than it is read as, or pictures are not there."""
    ids: set[str] = set()
    missing = []
    for seed in seeds:
        if seed.id in ids:
            raise UserError(f"{path}: id {seed.id!r} occurs twice; ids must be unique in a file")
        ids.add(seed.id)
        if len(seed.turns) > MOST_TURNS:
            raise UserError(
                f"{path}:{_line(path, seed)}: {seed.id} has {len(seed.turns)} turns, and a script may have"
                f" {MOST_TURNS}; cut it, or make two scripts of it"
            )
        wrong = complaint(seed.meta, SeedMeta)
        for place, turn in enumerate(seed.turns):
            fault = complaint(turn.meta, TemplateMeta)
            wrong = wrong or (fault and f"turns.{place}.{fault}")
        if wrong:
            raise UserError(f"{path}: {seed.id}: {wrong}")
        for image in seed.all_images:
            try:
                if not inside(path.parent, image).is_file():
                    missing.append(f"{seed.id}: no picture {image}")
            except UserError as error:
                missing.append(f"{seed.id}: {error}")
    refuse(missing, f"{path}: ", f"; paths are relative to {path.parent}")


def _line(path: Path, seed: Seed) -> int:
    """The number of the line that holds this script."""
    for number, line in numbered_lines(path):
        if json.loads(line).get("id") == seed.id:
            return number
    raise ValueError(f"{path}: {seed.id} is not in it")
