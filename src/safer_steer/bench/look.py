"""A look at what a suite of a set would hold, before it is written and before anything is paid."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO

from safer_steer.bench.from_set import usable
from safer_steer.config import Source
from safer_steer.data.sources.load import Skipped, left_out_in_words
from safer_steer.dialogue import Kind
from safer_steer.errors import UserError, shortened
from safer_steer.files.images import check_header
from safer_steer.workers import Progress

SHORT = 72
"""Characters of a question that are shown: a row of the table then fits a terminal of 150 columns."""
NO_CATEGORY = "-"

Size = tuple[int, int]
"""Width and height of a picture in pixels."""


@dataclass(frozen=True)
class Row:
    """One script of the look, in words."""

    id: str
    kind: Kind
    category: str
    turns: int
    pictures: tuple[Size, ...]
    question: str
    """The first turn on one line, shortened."""


@dataclass
class Look:
    """What was read of a set."""

    rows: int = 0
    """Rows read; each is a script, several, or left out."""
    kinds: Counter[Kind] = field(default_factory=Counter)
    """Scripts by kind."""
    categories: dict[str, Counter[Kind]] = field(default_factory=dict)
    """Scripts by category and kind, as the set orders its categories."""
    turns: Counter[int] = field(default_factory=Counter)
    """Scripts by number of user turns."""
    sizes: Counter[Size] = field(default_factory=Counter)
    """Pictures shown, by size; one that several scripts show counts for each."""
    pictureless: int = 0
    """Scripts without a picture."""
    pairs: int = 0
    """Scripts whose twin was read too, by two."""
    first: list[Row] = field(default_factory=list)
    """The first scripts, in the set's order."""
    skipped: Skipped = field(default_factory=dict)
    """Rows left out, by reason."""


def look_at(source: Source, seed: int, rows: int, progress: Progress | None = None) -> Look:
    """Read a set as `write_suite` does, to the end, and write nothing.

    Args:
        seed: of the draw, if the source has a limit.
        rows: so many of the first scripts are in `first`.

    Raises:
        UserError: as `write_suite`, also if nothing is left.
    """
    look = Look()

    def count(done: int, total: int, failed: int = 0) -> None:
        look.rows = done
        if progress:
            progress(done, total, failed)

    waiting: set[str] = set()
    """Twins of scripts read so far that were not read yet."""
    for sample, pictures in usable(source, seed, look.skipped, count):
        kind = Kind.BENIGN if sample.safe else Kind.OBFUSCATED
        category = shortened(sample.category, SHORT) or NO_CATEGORY
        sizes = tuple(check_header(BytesIO(data)) for turn in pictures for data, _ in turn)
        look.kinds[kind] += 1
        look.categories.setdefault(category, Counter())[kind] += 1
        look.turns[len(sample.turns)] += 1
        look.sizes.update(sizes)
        look.pictureless += not sizes
        if sample.id in waiting:
            look.pairs += 1
        elif sample.twin:
            waiting.add(sample.twin)
        if len(look.first) < rows:
            question = shortened(sample.turns[0], SHORT)
            look.first.append(Row(shortened(sample.id), kind, category, len(sample.turns), sizes, question))
    if not look.kinds:
        raise UserError(f"{left_out_in_words(look.skipped) or source.name}: nothing is left for a suite")
    return look
