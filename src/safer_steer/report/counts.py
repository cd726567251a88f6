"""What a run made, in numbers: scripts, data sets, the Stage II filter, and how RL went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safer_steer.dialogue import Kind
from safer_steer.files.store import read_rows
from safer_steer.report.main_table import at, number
from safer_steer.report.runs import read_json

Row = dict[str, Any]


def counts_of(run: Path, steps: list[Row]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Tables of counts: seeds by kind, data sets, the Stage II filter with its reasons, RL stop reasons and
    strategies."""
    seeds = [
        (kind.replace("_", "-"), sum(1 for _ in read_rows(path)))
        for kind in map(str, Kind)
        if (path := run / "seeds" / f"{kind}.jsonl").is_file()
    ]
    kept = sum(1 for _ in read_rows(run / "bootstrap" / "kept.jsonl"))
    reasons = _count_by(read_rows(run / "bootstrap" / "rejected.jsonl"), "reasons", "reason", "rejected")
    bootstrap = [("kept", kept)] * bool(kept or reasons) + [
        (f"rejected: {reason}", count) for reason, count in reasons.most_common()
    ]
    tables = [
        ("Seeds by kind", seeds),
        ("Scripts by data set", _assembled(run)),
        ("Bootstrap filter", bootstrap),
    ]
    tables += [
        (title, _added_up(steps, key))
        for title, key in (("RL stop reasons", "stop"), ("RL attack strategies", "strategies"))
    ]
    return [(title, rows) for title, rows in tables if rows]


def _assembled(run: Path) -> list[tuple[str, int]]:
    """Size of each data set, and the number left out by reason."""
    balance = read_json(run / "splits" / "balance.json", "assemble")
    splits, left_out = balance.get("splits"), balance.get("left_out")
    rows = (
        [(name, int(number(at(split, "scripts")) or 0)) for name, split in splits.items()]
        if isinstance(splits, dict)
        else []
    )
    reasons: Counter[str] = Counter()
    for counts in left_out.values() if isinstance(left_out, dict) else ():
        reasons.update(
            {name: int(number(count) or 0) for name, count in counts.items()}
            if isinstance(counts, dict)
            else {}
        )
    return rows + [(f"left out: {name.replace('_', ' ')}", count) for name, count in reasons.most_common()]


def _added_up(steps: list[Row], key: str) -> list[tuple[str, int]]:
    total: Counter[str] = Counter()
    for row in steps:
        counts = row.get(key)
        if isinstance(counts, dict):
            total.update({str(name): int(number(count) or 0) for name, count in counts.items()})
    return [(name.replace("_", " "), count) for name, count in total.most_common() if count]


def _count_by(rows: Iterable[Row], *names: str) -> Counter[str]:
    """Count the rows by reason. A row's reasons are under one of `names`, in the row or its meta, as text or
    as a list."""
    counts: Counter[str] = Counter()
    for row in rows:
        meta = row.get("meta")
        places = [row, meta if isinstance(meta, dict) else {}]
        found = next(
            (value for place in places for name in names if (value := place.get(name))), "not stated"
        )
        counts.update(map(str, found) if isinstance(found, list) else [str(found)])
    return counts
