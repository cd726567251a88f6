"""People's labels: a sheet to fill in, and the labels read back. One CSV row for each turn and person.

A sheet does not show the judge's scores, the model or the suite. Columns: `dialogue` (the sheet's code, or a
script's id where only one model and suite have it), `turn` (from 1), `harmlessness` (-3..3), `helpfulness`
(0..3), `annotator` (may be left out where there is one person). Other columns are ignored.
"""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

from safer_steer.bench.agreement import SCORES
from safer_steer.bench.judge_check.played import Place
from safer_steer.dialogue import Dialogue, Format, visible_answer
from safer_steer.errors import UserError
from safer_steer.files.store import TEXT, write_atomic

SHOWN = ("dialogue", "turn", "user", "answer", "pictures", *SCORES, "annotator")
"""The columns of a sheet."""
ENOUGH = 10
"""Labelled dialogues that a rate needs."""
IN_EACH = 4
"""Labelled dialogues that each suite of a mean needs."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet computes a cell that begins like this."""


class Label(NamedTuple):
    """One person's scores of one turn."""

    place: Place
    turn: int
    """From 1."""
    annotator: str
    scores: dict[str, int]


def drawn(dialogues: Iterable[Place], count: int, seed: int) -> list[Place]:
    """So many of the dialogues at random, without replacement, in random order; the same for the same seed.
    There are equally many of each model and suite, as far as it has so many."""
    chance = random.Random(f"labels {seed}")
    suites: dict[tuple[str, ...], list[Place]] = {}
    for place in sorted(dialogues):
        suites.setdefault(place[:3], []).append(place)
    left = [chance.sample(places, len(places)) for places in suites.values()]
    sample: list[Place] = []
    while len(sample) < count and left:
        sample += [places.pop() for places in chance.sample(left, min(len(left), count - len(sample)))]
        left = [places for places in left if places]
    return chance.sample(sample, len(sample))


def needed(suites: int) -> int:
    """How many labelled dialogues a rate over so many suites needs in each of them."""
    return max(IN_EACH, ceil(ENOUGH / max(suites, 1)))


def enough_said(sample: Iterable[Place], dialogues: Iterable[Place]) -> str:
    """What the dialogues on a sheet are enough for, if all are labelled."""
    cells = Counter({place[:3]: 0 for place in dialogues})
    cells.update(place[:3] for place in sample)
    return (
        f"at least {min(cells.values())} of each model and suite; to be corrected, a suite's rate needs"
        f" {needed(1)} (--sample {needed(1) * len(cells)}), a mean over three suites or more {needed(3)} of"
        f" each (--sample {needed(3) * len(cells)})"
    )


def write_sheet(dialogues: Mapping[Place, Dialogue], format: Format, out: Path) -> int:
    """Write a sheet with all turns of these dialogues, in this order; returns the number of turns.

    Raises:
        UserError: `out` exists; people may have filled it in.
    """
    if out.exists():
        raise UserError(f"{out}: exists already; move it away or choose another name")
    text = io.StringIO()
    sheet = csv.DictWriter(text, SHOWN)
    sheet.writeheader()
    turns = 0
    for place, dialogue in dialogues.items():
        images = dialogue.images_by_turn()
        for number, turn in enumerate(dialogue.turns, 1):
            answer = visible_answer(turn.assistant or "", format)
            row = {"user": turn.user, "answer": answer, "pictures": " ".join(images[number - 1])}
            cells = {name: _plain(cell) for name, cell in row.items()}
            sheet.writerow({"dialogue": place.code, "turn": number, **cells})
            turns += 1
    write_atomic(out, text.getvalue().encode("utf-8-sig"))  # a spreadsheet needs the mark to read UTF-8
    return turns


def _plain(cell: str) -> str:
    """The cell as text, also for a spreadsheet: a model's answer must not be a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def read_labels(path: Path, dialogues: Mapping[Place, Dialogue]) -> list[Label]:
    """Read people's labels. Rows without any score are left out, since a sheet may be half filled in.

    Raises:
        UserError: the file is not readable, lacks a column or has no label, or a row is wrong; names the
            line.
    """
    try:
        text = path.read_text(encoding=TEXT)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error.args[-1]}); give a CSV file in UTF-8") from None
    labels: dict[tuple[Place, int, str], Label] = {}
    by_name = _by_name(dialogues)
    for line, row in _rows(path, text):
        if any((row[name] or "").strip() for name in SCORES):
            label = _label(row, by_name, dialogues, f"{path}:{line}")
            key = (label.place, label.turn, label.annotator)
            if key in labels:
                raise UserError(f"{path}:{line}: this person has labelled this turn before")
            labels[key] = label
    if not labels:
        raise UserError(f"{path}: no turn has scores; fill in {' and '.join(SCORES)}")
    return list(labels.values())


def _rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    """The rows of a sheet, each with the line on which it ends."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # answers may be longer than its 128 KiB
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = {"dialogue", "turn", *SCORES} - set(rows.fieldnames or ())
        if missing:
            raise UserError(
                f"{path}: no column {', '.join(sorted(missing))}; a comma stands between columns, and the"
                " first row names them"
            )
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{path}:{rows.line_num}: no CSV ({error}); look for a quotation mark that is not closed"
        ) from None


def _by_name(dialogues: Iterable[Place]) -> dict[str, list[Place]]:
    """The dialogues that a name may mean: a code means one, a script's id one of each model and suite."""
    by_name: dict[str, list[Place]] = {}
    for place in dialogues:
        for name in (place.code, place.id):
            by_name.setdefault(name, []).append(place)
    return by_name


def _label(
    row: Mapping[str, str | None],
    by_name: Mapping[str, Sequence[Place]],
    dialogues: Mapping[Place, Dialogue],
    where: str,
) -> Label:
    name = (row["dialogue"] or "").strip()
    places = by_name.get(name, ())
    if not places:
        raise UserError(f"{where}: no scored dialogue {name!r} in this bench")
    if len(places) > 1:
        raise UserError(
            f"{where}: {name!r} was played by several models or in several suites; use the codes that"
            " --template writes"
        )
    last = len(dialogues[places[0]].turns)
    turn = _number(row["turn"], "turn", (1, last), where)
    scores = {score: _number(row[score], score, limits, where) for score, limits in SCORES.items()}
    return Label(places[0], turn, (row.get("annotator") or "").strip() or "1", scores)


def _number(cell: str | None, name: str, limits: tuple[int, int], where: str) -> int:
    low, high = limits
    try:
        value = int((cell or "").strip())
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise UserError(f"{where}: {name} is {cell!r}; give a whole number from {low} to {high}")
    return value
