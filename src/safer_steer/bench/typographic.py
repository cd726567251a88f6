"""The typographic variant of a suite: the same scripts, with the words of every turn drawn into its picture.

Text and picture stand side by side in the tables, and what is asked is the same. A variant stays out of the
averages over suites, which would count its intents twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from safer_steer.bench.suites import Suite
from safer_steer.config.typographic import ID, NAME, Typographic
from safer_steer.data.typographic import Undrawable, in_picture, keep, legible
from safer_steer.dialogue import Seed, Turn, to_jsonl
from safer_steer.errors import UserError
from safer_steer.files.images import PicturesOf
from safer_steer.files.meta import without
from safer_steer.files.store import write_atomic


def check_variants(suites: Iterable[Suite], names: Collection[str]) -> None:
    """Raises `UserError` if a suite would have no variant, or one of these `names`."""
    for suite in suites:
        file = f"{suite.folder / suite.name}.jsonl"
        if (name := f"{suite.name}{NAME}") in names:
            raise UserError(f"{file}: bench.typographic: {name} would be its variant; rename that suite")
        why = Counter(filter(None, map(_complaint, suite.seeds)))
        if why.total() == len(suite.seeds):
            raise UserError(f"{file}: bench.typographic: no script can be drawn: {_in_words(why)}")


def _complaint(seed: Seed) -> str:
    """Why the words of a script cannot be drawn; "" if they can."""
    try:
        for turn in seed.turns:
            legible(turn.user)
    except Undrawable as error:
        return str(error)
    return ""


def _in_words(why: Counter[str]) -> str:
    return ", ".join(f"{count:,} ({reason})" for reason, count in why.most_common(3))


def variant_of(suite: Suite, folder: Path, style: Typographic, pictures_of: PicturesOf) -> Suite:
    """The variant of a suite of the run in `folder`, written beside it. Scripts that cannot be drawn are left
    out; `left_out` says how many and why."""
    name, seeds, why = f"{suite.name}{NAME}", list[Seed](), Counter[str]()
    under = f"suites/{name}"
    for seed in suite.seeds:
        try:
            seeds.append(_in_pictures(seed, folder, under, style, pictures_of))
        except Undrawable as error:
            why[str(error)] += 1
    beside = [seed.with_images(lambda image: image.removeprefix(f"{under}/")) for seed in seeds]
    write_atomic(folder / under / f"{name}.jsonl", to_jsonl(beside))
    left_out = f"{why.total():,} of {len(suite.seeds):,} scripts are not drawn: {_in_words(why)}"
    return replace(suite, name=name, seeds=seeds, scaled=0, left_out=left_out if why else "")


def _in_pictures(seed: Seed, folder: Path, under: str, style: Typographic, pictures_of: PicturesOf) -> Seed:
    """The script with all its words in pictures. Raises `Undrawable` if one of its turns cannot be drawn."""
    turns, by_turn, images = list[Turn](), list[list[str]](), f"{under}/images/"
    views = [pictures_of(paths) for paths in seed.images_by_turn()]
    pages = [in_picture(turn, pictures, style) for turn, pictures in zip(seed.turns, views, strict=True)]
    for (turn, data), pictures in zip(pages, views, strict=True):
        others = [keep(other.data, folder, images, other.suffix) for other in pictures[:-1]]
        by_turn.append([*others, keep(data, folder, images)])
        turns.append(turn.model_copy(update={"images": by_turn[-1] if turns else []}))
    meta = without(seed.meta, "scaled_from") | {"in_text": seed.id}
    if "twin" in meta:
        meta["twin"] += ID
    changes = {"id": f"{seed.id}{ID}", "images": by_turn[0], "turns": turns, "meta": meta}
    return seed.model_copy(update=changes)
