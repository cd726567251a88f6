"""Counts of an export, taken while it is written. All numbers of the card come from here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from safer_steer.dialogue import Kind, Seed
from safer_steer.files.images import Picture


@dataclass
class SplitCounts:
    """Counts of one split of one part."""

    part: str
    split: str
    dialogues: int = 0
    pictures: set[str] = field(default_factory=set)
    """SHA-256 hashes: a picture used in several dialogues counts once."""
    kinds: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    """Dialogues by number of turns."""

    def add(self, seed: Seed, pictures: Sequence[Picture]) -> None:
        """Count one dialogue or script."""
        self.dialogues += 1
        self.pictures.update(picture.sha256 for picture in pictures)
        self.kinds[seed.kind.value] += 1
        self.sources[seed.source or "not named"] += 1
        self.lengths[len(seed.turns)] += 1


def by_kind(tallies: Sequence[SplitCounts]) -> list[list[str]]:
    """Table (head, then rows): dialogues of each split by kind, mean number of turns, pictures."""
    head = ["", "dialogues", *(kind.value for kind in Kind), "mean turns", "pictures"]
    rows = []
    for tally in tallies:
        mean = sum(turns * count for turns, count in tally.lengths.items()) / max(1, tally.dialogues)
        kinds = [str(tally.kinds[kind.value]) for kind in Kind]
        rows.append([label(tally), str(tally.dialogues), *kinds, f"{mean:.2f}", str(len(tally.pictures))])
    return [head, *rows]


def by_source(tallies: Sequence[SplitCounts]) -> list[list[str]]:
    """Table (head, then rows): dialogues of each split by source."""
    rows = [["source", *map(label, tallies)]]
    for name in sorted(set().union(*(tally.sources for tally in tallies))):
        rows.append([name, *(str(tally.sources[name]) for tally in tallies)])
    return rows


def by_length(tallies: Sequence[SplitCounts]) -> list[list[str]]:
    """Table (head, then rows): dialogues of each split by number of turns."""
    rows = [["turns", *map(label, tallies)]]
    for turns in sorted(set().union(*(tally.lengths for tally in tallies))):
        rows.append([str(turns), *(str(tally.lengths[turns]) for tally in tallies)])
    return rows


def label(tally: SplitCounts) -> str:
    """`sft`, `rl`, `bench/<suite>`."""
    return tally.part if tally.split == "train" else f"{tally.part}/{tally.split}"
