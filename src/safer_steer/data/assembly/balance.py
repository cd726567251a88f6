"""Reports what the data sets contain, and what was left out and why: `balance.json`, and `balance.md` to
read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import Any

from safer_steer.data.assembly.candidates import Candidate
from safer_steer.dialogue import Kind

NONE = "–"

DIMENSIONS: dict[str, Callable[[Candidate], str]] = {
    "kind": lambda candidate: candidate.kind.value,
    "source": lambda candidate: candidate.source or NONE,
    "category": lambda candidate: candidate.category or NONE,
    "turns": lambda candidate: str(candidate.turns),
}


def balance_of(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Statistics of a data set: number of scripts, pairs and pictures, share of benign scripts (0-1), mean
    turns, and scripts by each dimension."""
    kinds = Counter(candidate.kind for candidate in candidates)
    by = {}
    for name, value in DIMENSIONS.items():
        counts = Counter(map(value, candidates))
        by[name] = dict(sorted(counts.items(), key=_natural))
    return {
        "scripts": len(candidates),
        "pairs": len({candidate.pair for candidate in candidates}),
        "pictures": len({candidate.picture for candidate in candidates}),
        "benign_share": round(kinds[Kind.BENIGN] / len(candidates), 4) if candidates else None,
        "mean_turns": round(fmean(candidate.turns for candidate in candidates), 2) if candidates else None,
        "by": by,
    }


def in_words(found: Mapping[str, Any]) -> str:
    """`balance.json` as Markdown tables, one column per data set."""
    splits: Mapping[str, Any] = found["splits"]
    lines = [
        "# Balance of the data sets",
        *[""] * bool(found["notes"]),
        *(f"- {note}" for note in found["notes"]),
    ]
    if found["bench"]:
        lines += ["", f"Red-team scripts of the suites of STEER-Bench: {found['bench']}."]
    facts = {}
    for name in _FACTS:
        values = [split[name] for split in splits.values()]
        facts[name] = [NONE if value is None else str(value) for value in values]
    lines += _table("", splits, facts)
    for dimension in DIMENSIONS:
        by_split = {name: split["by"][dimension] for name, split in splits.items()}
        lines += _table(dimension, splits, _counts(by_split, lambda value: _natural((value, 0))))
    lines += _table("rules", ("scripts",), {name: [str(count)] for name, count in found["rules"].items()})
    lines += _table("left out", found["left_out"], _counts(found["left_out"], str))
    return "\n".join(lines) + "\n"


_FACTS = ("scripts", "pairs", "pictures", "benign_share", "mean_turns")


def _counts(columns: Mapping[str, Mapping[str, int]], order: Callable[[str], Any]) -> dict[str, list[str]]:
    """A row of counts for every value that occurs in some column."""
    values = set(chain.from_iterable(columns.values()))
    rows = {}
    for value in sorted(values, key=order):
        rows[value] = [str(counts.get(value, 0)) for counts in columns.values()]
    return rows


def _table(title: str, columns: Iterable[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    if not rows:
        return []
    head = [title, *columns]
    lines = [""]
    for row in (head, ["---"] * len(head), *([name, *cells] for name, cells in rows.items())):
        lines.append(f"| {' | '.join(map(_cell, row))} |")
    return lines


def _cell(text: str) -> str:
    """Escapes a cell. Names come from data sets and must not end a cell or a line."""
    return " ".join(text.split()).replace("|", "\\|")


def _natural(item: tuple[str, int]) -> tuple[int, str]:
    """Sort key: numbers by value, then strings."""
    return (int(item[0]), "") if item[0].isdecimal() else (99, item[0])
