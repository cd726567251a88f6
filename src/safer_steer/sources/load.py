"""Reads whole sets: turns rows into samples, reports or counts unusable rows, and makes the pairs of
Stage I."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safer_steer.config import Config, Source
from safer_steer.errors import UserError
from safer_steer.scaling import in_words
from safer_steer.sources.find_splits import SetSplit, find_splits
from safer_steer.sources.layout import Layout
from safer_steer.sources.own import OWN
from safer_steer.sources.pair import Pair
from safer_steer.sources.pictures import SetPictures
from safer_steer.sources.sample import Sample
from safer_steer.sources.set_row import NO_COLUMN, UNKNOWN_COLUMN, BadRow, SetRow
from safer_steer.sources.sets import SETS, layout_of, meant
from safer_steer.sources.subsample import subsample
from safer_steer.sources.text_files import Unreadable

Skipped = dict[str, Counter[str]]
"""Number of skipped rows, by source and reason."""

NO_PICTURE = "no picture"


def load_pairs(config: Config, skipped: Skipped | None = None) -> Iterator[Pair]:
    """The pairs of all sources, in order, read lazily. The same sources always give the same pairs.

    Args:
        skipped: filled with counts of the rows left out; complete once all pairs are read.

    Raises:
        UserError: a set does not exist, or a row is unusable and `bad_rows` is `error`. The message names
            set, file, row and column.
    """
    for source in config.seeds.sources:
        yield from pairs_of(source, config, skipped)


def pairs_of(source: Source, config: Config, skipped: Skipped | None = None) -> Iterator[Pair]:
    """The pairs of one source; see `load_pairs`."""
    if source.name == "sandbox":
        from safer_steer.sources.sandbox import sandbox_pairs

        yield from sandbox_pairs(source, config)
        return
    if not layout_of(source.name).stage_1:
        raise UserError(
            f"seeds.sources: {source.name} is a suite for the bench, not a source of pairs;"
            f" see `safer-steer suite {source.name}`"
        )
    for sample in read_samples(source, config.seed, skipped, pictureless=False):
        yield _pair(sample, source)


def left_out_in_words(skipped: Skipped, scaled: Mapping[str, int] | None = None, max_pixels: int = 0) -> str:
    """The rows left out and the pictures scaled down to `max_pixels`, by source, on one line; "" for none."""
    lines = []
    for name, counts in skipped.items():
        if counts:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
            lines.append(f"{name}: {counts.total()} left out ({reasons})")
    lines += [f"{name}: {in_words(count, max_pixels)}" for name, count in (scaled or {}).items() if count]
    return "; ".join(lines)


def _pair(sample: Sample, source: Source) -> Pair:
    question = sample.turns[0]
    (image,) = sample.images
    return Pair(
        id=sample.id,
        image=image,
        question=question,
        source=sample.source or source.name,
        intent=sample.intent or question,
        safe=sample.safe,
        answer=sample.answer,
        where=sample.where,
        category=sample.category,
        use=source.use,
    )


def read_samples(
    source: Source,
    seed: int,
    skipped: Skipped | None = None,
    *,
    pictureless: bool,
    layout: Layout | None = None,
) -> Iterator[Sample]:
    """A set's samples, or `source.limit` of them drawn with `seed`. Their pictures are found and measured.

    Args:
        skipped: filled with counts of the rows left out.
        pictureless: include samples without a picture, in sets that have them by design, and samples with
            several pictures. Otherwise samples without a picture in such sets are counted as skipped,
            whatever `bad_rows` is, and rows with several pictures are unusable.
        layout: how rows are read; by default as those of the set with the source's name.
    """
    layout = layout or layout_of(source.name)
    counts = (skipped if skipped is not None else {}).setdefault(label(source), Counter())
    if source.limit is None:
        return _all(source, layout, counts, pictureless)

    def again(counting: bool) -> Iterator[Sample]:
        return _all(source, layout, counts if counting else Counter(), pictureless)

    return subsample(again, lambda sample: sample.id, source.limit, seed, lambda sample: sample.category)


def label(source: Source) -> str:
    """The name of a source in counts."""
    return "/".join(filter(None, (source.name, source.subset, source.split)))


def _all(source: Source, layout: Layout, counts: Counter[str], pictureless: bool) -> Iterator[Sample]:
    seen: set[int] = set()
    rows = 0
    for split in find_splits(source, layout):
        pictures = SetPictures(split.folder, source.images, split.name)
        intents = _intents(split, source, layout) if layout.intents else None
        for index, (place, value) in enumerate(split.rows()):
            rows += 1
            try:
                row = _row(f"{source.name}: {split.title}{place}", value, index, split, intents)
                found = [
                    _checked(sample, row, split, source, layout, pictures, pictureless)
                    for sample in layout.samples(row)
                ]
                ids = _new_ids(found, seen, row)
            except BadRow as error:
                other_columns = error.reason.startswith((NO_COLUMN, UNKNOWN_COLUMN))
                misspelled = "did you mean" in str(error)
                if source.bad_rows == "error" and layout is OWN and other_columns and not misspelled:
                    raise UserError(
                        f"{error} ({source.name} is none of the sets that `safer-steer sets` lists,"
                        f" so its rows are read as your own{meant(source.name)})"
                    ) from None
                if source.bad_rows == "error":
                    raise
                counts[error.reason] += 1
                continue
            seen |= ids
            counts.update(NO_PICTURE for sample in found if sample is None)
            yield from filter(None, found)
    if not rows:
        raise UserError(
            f"{source.path or source.hub}: no rows in it; source {source.name} needs at least one pair"
        )


def _new_ids(found: list[Sample | None], seen: set[int], row: SetRow) -> set[int]:
    """The hashes of the samples' ids. Raises `BadRow` for an id that occurs twice."""
    ids: set[int] = set()
    for sample in filter(None, found):
        id = _short(sample.id)
        if id in seen or id in ids:
            raise row.bad(f"id: {sample.id} occurs twice; ids must be unique in a set", "repeated id")
        ids.add(id)
    return ids


def _intents(split: SetSplit, source: Source, layout: Layout) -> dict[str, str]:
    """The true intents of a split's rows by id, from the split that holds them."""
    if source.path and Path(source.path).is_file():
        raise UserError(
            f"{source.path}: the true intents of {source.name} are in the split {layout.intents};"
            " give the folder that has both"
        )
    found = {}
    of_subset = source.model_copy(update={"subset": split.subset or source.subset})
    for other in find_splits(of_subset, layout, layout.intents):
        for index, (place, value) in enumerate(other.rows()):
            try:
                row = _row(f"{source.name}: {other.title}{place}", value, index, other, None)
                found[row.key("id")] = row.question("question")
            except BadRow:
                if source.bad_rows == "error":
                    raise
    return found


def _row(where: str, value: Any, index: int, split: SetSplit, intents: dict[str, str] | None) -> SetRow:
    if isinstance(value, Unreadable):
        raise BadRow(where, value.what, value.reason)
    if not isinstance(value, dict):
        raise BadRow(where, "a row is a JSON object with the set's columns", "no object")
    return SetRow(where, value, index, split.subset, split.name, intents)


def _checked(
    sample: Sample,
    row: SetRow,
    split: SetSplit,
    source: Source,
    layout: Layout,
    pictures: SetPictures,
    pictureless: bool,
) -> Sample | None:
    """The sample with its pictures found and its id made unique. None if it has no picture, the set has such
    samples by design, and `pictureless` is false."""
    if not sample.images and layout.pictureless:
        if not pictureless:
            return None
    elif not sample.images or any(cell is None for cell in sample.images):
        raise row.bad("image: is null; give a path", NO_PICTURE)
    elif len(sample.images) > 1 and not pictureless:
        raise row.bad(
            f"images: {len(sample.images)} pictures; Stage I takes rows with one", "several pictures"
        )
    found: tuple[Any, ...] = tuple(pictures.find(cell, row.where) for cell in sample.images)
    labels = []
    if source.name in SETS:
        labels = [name for name in dict.fromkeys((split.subset, split.name)) if name not in ("", "default")]
    return replace(sample, id="-".join([source.name, *labels, sample.id]), images=found, where=row.where)


def _short(id: str) -> int:
    """An id as a 64-bit hash, to save memory."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "big")
