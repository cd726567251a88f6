"""The suites in a run's own folder, so that a run holds all it was measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

from safer_steer.bench.suites import (
    SANDBOX_DIALOGUES,
    Suite,
    draw_suite,
    large_pictures,
    named,
    read_suite,
    suites_named,
)
from safer_steer.bench.typographic import variant_of
from safer_steer.config.bench import EMBEDDED, STEER
from safer_steer.config.typographic import Typographic
from safer_steer.data.assembly.candidates import picture_id, scaled_from
from safer_steer.data.assembly.splits import FOLDER
from safer_steer.dialogue import Seed, read_seeds, to_jsonl
from safer_steer.errors import UserError
from safer_steer.files.images import load_picture, pictures_in
from safer_steer.files.store import inside, write_atomic


def bring_in(
    names: Sequence[str],
    folder: Path,
    dialogues: int | None,
    max_pixels: int,
    style: Typographic | None = None,
) -> list[Suite]:
    """Copy the suites into `folder/suites`, so that the run holds all it was measured on; image paths become
    relative to `folder`.

    Pictures get the form that all readers take alike; scripts say from what file those that changed were made
    (`meta.scaled_from`).

    Args:
        dialogues: at most so many of each group, a group being the attacks, or the safe twins, of one
            protocol: an equal share of every suite in it, drawn (`draw_suite`). The embedded suites are
            written in that size. The scripts are the same for every run, whatever its seed.
        style: of the typographic variants, each of which comes after its suite; None for none.
    """
    assembled = sorted((folder / FOLDER / "bench").glob("*.jsonl")) if STEER in names else []
    if STEER in names and not assembled:
        raise UserError(
            f"{folder / FOLDER / 'bench'}: no suites in it, which `{STEER}` stands for; {FOLDER}/balance.md"
            " says which scripts were left out and why"
        )
    suites = suites_named([*names, *map(str, assembled)])
    groups = Counter((suite.protocol, suite.safe_twins) for suite in suites)
    if dialogues:
        suites = [
            draw_suite(suite, ceil(dialogues / groups[suite.protocol, suite.safe_twins])) for suite in suites
        ]
    suites = [copied(suite, folder / "suites" / suite.name, max_pixels) for suite in suites]
    brought = [moved(suite, folder, f"suites/{suite.name}") for suite in suites]
    for name in EMBEDDED:
        if name in names:
            from safer_steer.sandbox.suites import write_suites

            size = dialogues or SANDBOX_DIALOGUES
            files = write_suites(folder / "suites" / name, size, size, name=name)
            embedded = [read_suite(path) for paths in files.values() for path in paths]
            brought += [replace(moved(suite, folder, f"suites/{name}"), embedded=True) for suite in embedded]
    for suite in suites:
        write_atomic(folder / "suites" / suite.name / f"{suite.name}.jsonl", to_jsonl(suite.seeds))
    if style is None:
        return brought
    pictures_of = pictures_in(folder, max_pixels)
    return [one for suite in brought for one in (suite, variant_of(suite, folder, style, pictures_of))]


def copied(
    suite: Suite, to: Path, max_pixels: int, read: Callable[[Path], Iterable[Seed]] = read_seeds
) -> Suite:
    """The suite as it is in the run, its pictures put there. `read` reads the copy of an earlier process."""
    before, earlier = to / f"{suite.name}.jsonl", dict[str, str]()
    for seed in read(before) if before.is_file() else ():
        earlier |= scaled_from(seed)
    originals, there = dict[str, str](), set[str]()
    for seed in suite.seeds:
        for image in seed.all_images:
            if image not in there:
                original = _copy_picture(suite, seed, image, to, max_pixels, earlier)
                there.add(image)
                if original:
                    originals[image] = original
    seeds = [_with_originals(seed, originals) for seed in suite.seeds]
    return replace(suite, seeds=seeds, scaled=len(large_pictures(suite, max_pixels)))


def _copy_picture(
    suite: Suite, seed: Seed, image: str, to: Path, max_pixels: int, earlier: Mapping[str, str]
) -> str | None:
    """Copy a picture in the form that all readers take alike; returns the original's id if the copy differs.

    `earlier` holds the ids of what an earlier process wrote anew: unless the original has changed, that copy
    stays.

    Raises:
        UserError: the picture cannot be read; names the suite's file and the script.
        OSError: the copy cannot be written; names the copy.
    """
    with named(suite, seed):
        path, copy = inside(suite.folder, image), inside(to, image)
        if image in earlier and copy.is_file() and earlier[image] == picture_id(path):
            return earlier[image]
        picture = load_picture(suite.folder, image, max_pixels)
    if not copy.is_file() or copy.read_bytes() != picture.data:
        write_atomic(copy, picture.data, sync=False)
    return picture.original[:16] if picture.rewritten_from else None


def _with_originals(seed: Seed, originals: Mapping[str, str]) -> Seed:
    own = {image: originals[image] for image in seed.all_images if image in originals}
    return seed.model_copy(update={"meta": seed.meta | {"scaled_from": own}}) if own else seed


def moved(suite: Suite, folder: Path, prefix: str) -> Suite:
    """The suite with picture paths that are relative to `folder`, under `prefix`."""
    seeds = [seed.with_images(lambda image: f"{prefix}/{image}") for seed in suite.seeds]
    return replace(suite, seeds=seeds, folder=folder)
