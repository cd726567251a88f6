"""Reads whole sets: turns rows into samples, reports or counts unusable rows, and makes the pairs of
Stage I."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from safer_steer.config import Config, Source
from safer_steer.data.sources.columns import OWN, Columns
from safer_steer.data.sources.find_splits import SetSplit, find_splits
from safer_steer.data.sources.pair import Pair, sandbox_pairs
from safer_steer.data.sources.pictures import SetPictures
from safer_steer.data.sources.set_row import NO_COLUMN, UNKNOWN_COLUMN, BadRow, Layout, Sample, SetRow
from safer_steer.data.sources.sets import SETS, did_you_mean, layout_of
from safer_steer.data.sources.text_files import Unreadable
from safer_steer.errors import UserError
from safer_steer.files.scaling import in_words
from safer_steer.files.store import content_id
from safer_steer.workers import Progress

Item = TypeVar("Item")
Skipped = dict[str, Counter[str]]
"""Number of skipped rows, by source and reason."""
NO_PICTURE = "no picture"


def subsample(
    items: Callable[[bool], Iterator[Item]],
    key: Callable[[Item], str],
    limit: int,
    seed: int,
    category: Callable[[Item], str] = lambda item: "",
) -> Iterator[Item]:
    """`limit` items, drawn by hashes of key and seed, so independently of the order of the set. Each item is
    about as likely as any other, and each category has about its share of them.

    A larger limit includes all items of a smaller one. Of each item only its hash is in memory.

    Args:
        items: reads the set from its beginning. Called twice: with False, then with True for the pass whose
            items are yielded.
        key: an item's key, unique in the set. Items that share one, as twins do, count as one, and are drawn
            together.
        category: an item's category; "" if it has none.
    """
    ranks: defaultdict[str, set[int]] = defaultdict(set)
    for item in items(False):
        ranks[category(item)].add(_hash64(f"{seed} {key(item)}"))
    hashes = {rank for _, rank in heapq.nsmallest(limit, _places(ranks, seed))}
    for item in items(True):
        if _hash64(f"{seed} {key(item)}") in hashes:
            yield item


def draw(
    items: Sequence[Item],
    key: Callable[[Item], str],
    limit: int | None,
    seed: int,
    category: Callable[[Item], str] = lambda item: "",
) -> list[Item]:
    """`subsample` of items at hand; all of them if `limit` is None."""
    if limit is None or limit >= len(items):
        return list(items)
    return list(subsample(lambda _: iter(items), key, limit, seed, category))


def draw_order(
    items: Sequence[Item], key: Callable[[Item], str], seed: int, category: Callable[[Item], str]
) -> list[Item]:
    """The items in the order in which larger and larger limits draw them."""
    ranks: defaultdict[str, set[int]] = defaultdict(set)
    for item in items:
        ranks[category(item)].add(_hash64(f"{seed} {key(item)}"))
    places = {rank: (place, rank) for place, rank in _places(ranks, seed)}
    return sorted(items, key=lambda item: places[_hash64(f"{seed} {key(item)}")])


def _places(ranks: Mapping[str, Iterable[int]], seed: int) -> Iterator[tuple[float, int]]:
    """The place of each item in the order in which all are drawn, 0 to 1, with its rank.

    A category's items are evenly spaced, from a random offset (systematic sampling): up to place t there is a
    share t of each category, and a category with one item is no less likely than others.
    """
    for name, unordered in ranks.items():
        ordered = sorted(unordered)
        offset = _hash64(f"{seed} category {name}") / 2**64
        for index, rank in enumerate(ordered):
            yield (index + offset) / len(ordered), rank


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


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
        yield from sandbox_pairs(source, config)
        return
    if not (source.own or layout_of(source.name).stage_1):
        raise UserError(
            f"seeds.sources: {source.name} is a suite for the bench, not a source of pairs;"
            f" see `safer-steer suite {source.name}`"
        )
    for sample in read_samples(source, config.seed, skipped, pictureless=False):
        yield Pair(
            id=sample.id,
            image=sample.images[0],
            question=sample.turns[0],
            source=sample.source or source.name,
            intent=sample.intent or sample.turns[0],
            safe=sample.safe,
            answer=sample.answer,
            where=sample.where,
            category=sample.category,
            use=source.use,
        )


def files_of(source: Source, layout: Layout | None = None) -> list[Path]:
    """The files here that the source's rows are read from, without the pictures that they name. Raises
    `UserError` as `find_splits` does."""
    layout = layout or layout_of(source.name)
    splits = find_splits(source, layout)
    if layout.intents:
        splits += [other for split in splits for other in _intent_splits(split, source, layout)]
    return [file for split in splits for file in split.files]


def left_out_in_words(skipped: Skipped, scaled: Mapping[str, int] | None = None, max_pixels: int = 0) -> str:
    """The rows left out and the pictures scaled down to `max_pixels`, by source, on one line; "" for none."""
    lines = []
    for name, counts in skipped.items():
        if counts:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
            lines.append(f"{name}: {counts.total()} left out ({reasons})")
    lines += [f"{name}: {in_words(count, max_pixels)}" for name, count in (scaled or {}).items() if count]
    return "; ".join(lines)


def label(source: Source) -> str:
    """The name of a source in counts."""
    return "/".join(filter(None, (source.name, source.subset, source.split)))


def read_samples(
    source: Source,
    seed: int,
    skipped: Skipped | None = None,
    *,
    pictureless: bool,
    layout: Layout | None = None,
    progress: Progress | None = None,
) -> Iterator[Sample]:
    """A set's samples, or `source.limit` of them drawn with `seed`. Their pictures are found and measured.

    Args:
        skipped: filled with counts of the rows left out.
        pictureless: include samples without a picture, in sets that have them by design, and samples with
            several pictures. Otherwise samples without a picture in such sets are counted as skipped,
            whatever `bad_rows` is, and rows with several pictures are unusable.
        layout: how rows are read; by default as those of the set with the source's name.
        progress: called with rows (read, all). A draw reads the set twice, and only then knows their number.

    Raises:
        UserError: a set does not exist, its name is nearly that of a published one, or a row is unusable.
    """
    layout = layout or _layout_named(source)
    counts = (skipped if skipped is not None else {}).setdefault(label(source), Counter())
    reading = _Reading(source, layout, pictureless, progress)
    if source.limit is None:
        return reading.samples(counts)

    def again(counting: bool) -> Iterator[Sample]:
        return reading.samples(counts if counting else Counter())

    return subsample(again, lambda sample: sample.pair, source.limit, seed, lambda sample: sample.category)


def _layout_named(source: Source) -> Layout:
    """Raises `UserError` if the name is nearly that of a published set, and the source is not said to be the
    user's own."""
    if source.own:
        return OWN
    if question := did_you_mean(source.name):
        raise UserError(
            f"source {source.name}: is none of the sets that `safer-steer sets` lists{question} If it is a"
            " set of your own, say so with `own: true` (`suite --own`), or give it another name"
        )
    return layout_of(source.name)


class _Reading:
    """Reads a set from its beginning to its end, as often as it is asked to."""

    def __init__(
        self, source: Source, layout: Layout, pictureless: bool, progress: Progress | None = None
    ) -> None:
        self.source, self.layout = source, layout
        self.pictureless, self.progress = pictureless, progress
        self._published = layout is SETS.get(source.name)
        self._rows = 0
        """Rows of the set, once it has been read."""

    def samples(self, counts: Counter[str]) -> Iterator[Sample]:
        source, layout = self.source, self.layout
        earlier: set[int] = set()
        columns = Columns(source)
        rows = 0
        for split in find_splits(source, layout):
            pictures = SetPictures(split.folder, source.images, split.name)
            intents = _intents(split, source, layout) if layout.intents else None
            alike: Counter[str] = Counter()
            for index, (place, value) in enumerate(split.rows()):
                rows += 1
                if self.progress:
                    self.progress(rows, self._rows)
                try:
                    row = _row(source, split, place, value, index, columns, intents)
                    if layout.numbered:
                        group = repr([row.data.get(name) for name in layout.numbered])
                        row = replace(row, number=alike[group])
                        alike[group] += 1
                    checked = [self._checked(sample, row, pictures) for sample in layout.samples(row)]
                    samples, ids = self._with_new_ids(checked, earlier, row)
                except BadRow as error:
                    if source.bad_rows == "error":
                        raise self._explained(error, columns) from None
                    if layout.numbered and isinstance(value, Unreadable):
                        raise UserError(
                            f"{error}; it cannot be skipped: the set's rows are twins by their place"
                        ) from None
                    counts[error.reason] += 1
                    continue
                earlier |= ids
                counts.update(NO_PICTURE for sample in checked if sample is None)
                yield from samples
        if not rows:
            raise UserError(
                f"{source.path or source.hub}: no rows in it; source {source.name} needs at least one pair"
            )
        columns.refuse_unseen()
        self._rows = rows

    def _explained(self, error: BadRow, columns: Columns) -> UserError:
        """The error, and how columns are named, if it is about them and the set is the user's own."""
        about_columns = error.reason.startswith((NO_COLUMN, UNKNOWN_COLUMN))
        if self.layout is not OWN or not about_columns or "did you mean" in str(error):
            return error
        unseen = columns.unseen_in_words()
        return UserError(
            f"{error}{unseen and f'; {unseen}'} ({self.source.name} is none of the sets that"
            " `safer-steer sets` lists, so its rows are read as your own: `columns: {question: NAME}` reads"
            " column NAME as question, `ignore: [NAME]` leaves one out; `suite` has --column and --ignore)"
        )

    def _with_new_ids(
        self, samples: Sequence[Sample | None], earlier: set[int], row: SetRow
    ) -> tuple[list[Sample], set[int]]:
        """The samples that are there, and the hashes of their ids. An id that a published set has given
        before gets a hash of its row. Raises `BadRow` for any other id that occurs twice, and for a row that
        does."""
        ids: set[int] = set()
        new: list[Sample] = []
        for sample in filter(None, samples):
            id = _hash64(sample.id)
            if self._published and (id in earlier or id in ids):
                end = f"-{content_id(row.data)[:8]}"
                sample = replace(sample, id=sample.id + end, twin=sample.twin and sample.twin + end)
                id = _hash64(sample.id)
            if id in earlier or id in ids:
                if self._published or (self.layout is OWN and row.column("id") is None):
                    raise row.bad("the row is the same as an earlier one; leave one out", "repeated row")
                raise row.bad(f"id: {sample.id} occurs twice; ids must be unique in a set", "repeated id")
            new.append(sample)
            ids.add(id)
        return new, ids

    def _checked(self, sample: Sample, row: SetRow, pictures: SetPictures) -> Sample | None:
        """The sample with its pictures found and its id made unique. None if it has no picture, the set has
        such samples by design, and `pictureless` is false."""
        cells = sample.pictures
        if not cells and self.layout.pictureless:
            if not self.pictureless:
                return None
        elif not cells or any(cell is None for cell in cells):
            raise row.bad("image: is null; give a path", NO_PICTURE)
        elif len(cells) > 1 and not self.pictureless:
            raise row.bad(f"images: {len(cells)} pictures; Stage I takes rows with one", "several pictures")

        def files(images: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(pictures.find(cell, row.where) for cell in images)

        labels: list[str] = []
        if self.layout is not OWN and self.source.name in SETS:
            labels = [name for name in dict.fromkeys((row.subset, row.split)) if name not in ("", "default")]
        of_set = "-".join([self.source.name, *labels, ""])
        return replace(
            sample,
            id=of_set + sample.id,
            twin=sample.twin and of_set + sample.twin,
            images=files(sample.images),
            later=tuple(map(files, sample.later)),
            where=row.where,
        )


def _intents(split: SetSplit, source: Source, layout: Layout) -> dict[str, str]:
    if source.path and Path(source.path).is_file():
        raise UserError(
            f"{source.path}: the true intents of {source.name} are in the split {layout.intents};"
            " give the folder that has both"
        )
    intents: dict[str, str] = {}
    columns = Columns(source)
    for other in _intent_splits(split, source, layout):
        for index, (place, value) in enumerate(other.rows()):
            try:
                row = _row(source, other, place, value, index, columns)
                intents[row.key("id")] = row.question("question")
            except BadRow:
                if source.bad_rows == "error":
                    raise
    return intents


def _intent_splits(split: SetSplit, source: Source, layout: Layout) -> list[SetSplit]:
    of_subset = source.model_copy(update={"subset": split.subset or source.subset})
    return find_splits(of_subset, layout, layout.intents)


def _row(
    source: Source,
    split: SetSplit,
    place: str,
    value: Any,
    index: int,
    columns: Columns,
    intents: dict[str, str] | None = None,
) -> SetRow:
    where = f"{source.name}: {split.title}{place}"
    if isinstance(value, Unreadable):
        raise BadRow(where, value.what, value.reason)
    if not isinstance(value, dict):
        raise BadRow(where, "a row is a JSON object with the set's columns", "no object")
    return SetRow(where, columns.renamed(value, where), index, split.subset, split.name, intents)
