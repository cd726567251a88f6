"""Reports what the data sets contain, and what was left out and why: `balance.json`, and `balance.md` to
read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from safer_steer.assembly.candidates import Candidate
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
    return {
        "scripts": len(candidates),
        "pairs": len({candidate.pair for candidate in candidates}),
        "pictures": len({candidate.picture for candidate in candidates}),
        "benign_share": round(kinds[Kind.BENIGN] / len(candidates), 4) if candidates else None,
        "mean_turns": round(fmean(candidate.turns for candidate in candidates), 2) if candidates else None,
        "by": {
            name: dict(sorted(Counter(map(value, candidates)).items(), key=_natural))
            for name, value in DIMENSIONS.items()
        },
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
    facts = {
        name: [str(NONE if split[name] is None else split[name]) for split in splits.values()]
        for name in _FACTS
    }
    lines += _table("", splits, facts)
    for dimension in DIMENSIONS:
        values = sorted(
            {value for split in splits.values() for value in split["by"][dimension]},
            key=lambda value: _natural((value, 0)),
        )
        lines += _table(
            dimension,
            splits,
            {
                value: [str(split["by"][dimension].get(value, 0)) for split in splits.values()]
                for value in values
            },
        )
    lines += _table("rules", ("scripts",), {name: [str(count)] for name, count in found["rules"].items()})
    uses = list(found["left_out"])
    reasons = sorted({reason for use in uses for reason in found["left_out"][use]})
    lines += _table(
        "left out",
        uses,
        {reason: [str(found["left_out"][use].get(reason, 0)) for use in uses] for reason in reasons},
    )
    return "\n".join(lines) + "\n"


_FACTS = ("scripts", "pairs", "pictures", "benign_share", "mean_turns")


def _table(title: str, columns: Iterable[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    head = [title, *columns]
    body = [[name, *cells] for name, cells in rows.items()]
    return (
        [
            "",
            *(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in (head, ["---"] * len(head), *body)),
        ]
        if body
        else []
    )


def _cell(text: str) -> str:
    """Escapes a cell. Names come from data sets and must not end a cell or a line."""
    return " ".join(text.split()).replace("|", "\\|")


def _natural(item: tuple[str, int]) -> tuple[int, str]:
    """Sort key: numbers by value, then strings."""
    return (int(item[0]), "") if item[0].isdecimal() else (99, item[0])
