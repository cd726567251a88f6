"""Reports what the data sets contain, and what was left out and why: `balance.json`, and `balance.md` to
read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import Any

from safer_steer.data.assembly.candidates import Candidate
from safer_steer.dialogue import Kind
from safer_steer.errors import shortened

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
    for name, dimension in DIMENSIONS.items():
        counts = Counter(map(dimension, candidates))
        by[name] = {value: counts[value] for value in sorted(counts, key=_natural)}
    return {
        "scripts": len(candidates),
        "pairs": len({candidate.pair for candidate in candidates}),
        "pictures": len({candidate.picture for candidate in candidates}),
        "benign_share": round(kinds[Kind.BENIGN] / len(candidates), 4) if candidates else None,
        "mean_turns": round(fmean(candidate.turns for candidate in candidates), 2) if candidates else None,
        "by": by,
    }


def in_words(balance: Mapping[str, Any]) -> str:
    """`balance.json` as Markdown tables, one column per data set."""
    splits: Mapping[str, Any] = balance["splits"]
    lines = ["# Balance of the data sets"]
    if balance["notes"]:
        lines += ["", *(f"- {literal(note)}" for note in balance["notes"])]
    if balance["bench"]:
        lines += ["", f"Red-team scripts of the suites of STEER-Bench: {balance['bench']}."]
    facts = {}
    for name in ("scripts", "pairs", "pictures", "benign_share", "mean_turns"):
        values = [split[name] for split in splits.values()]
        facts[name] = [NONE if value is None else str(value) for value in values]
    lines += _table("", splits, facts)
    for dimension in DIMENSIONS:
        by_split = {name: split["by"][dimension] for name, split in splits.items()}
        lines += _table(dimension, splits, _counts(by_split, _natural))
    lines += _table("rules", ("scripts",), {name: [str(count)] for name, count in balance["rules"].items()})
    lines += _table("left out", balance["left_out"], _counts(balance["left_out"], str))
    return "\n".join(lines) + "\n"


def _counts(columns: Mapping[str, Mapping[str, int]], order: Callable[[str], Any]) -> dict[str, list[str]]:
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
        lines.append(f"| {' | '.join(map(literal, row))} |")
    return lines


_PLAIN = re.compile(
    r"""`\w+`|(?!.*(?:://|www\.|\]\s*[(\[:]|\b_|_\b))[\w \-–.,;:/()%+=?'"\[\]|]*""", re.IGNORECASE
)
"""Texts that no reader of Markdown takes for more than text: no links, pictures, emphasis or HTML, or one
word as code."""


def literal(text: str) -> str:
    """Markdown of one line that shows this text, which a data set may have given, also in a cell of a table.
    What could be markup stands as code, in which nothing is live."""
    line = shortened(text, len(text))
    bars = re.sub(r"\\*\|", r"\\|", line)
    if _PLAIN.fullmatch(line):
        return bars
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {bars} {fence}"


def _natural(value: str) -> tuple[int, str]:
    """Sort key: numbers by value, then strings, very long numbers among them."""
    return (int(value), "") if value.isdecimal() and len(value) < 10 else (10**9, value)
