"""Data for the page's section on scripts: what Stage I wrote, and what it dropped and why. The size is
limited."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from safer_steer.dialogue import Kind
from safer_steer.files.store import read_rows

PER_KIND = 25
"""Maximum number of scripts of a kind on the page."""
DROPPED = 60
"""Maximum number of dropped scripts on the page."""
LONGEST = 600
"""Characters of a text on the page; longer ones are cut."""
RISKY = 4
"""The planned risk (1-5) from which on a turn asks for what is restricted."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Scripts:
    """Some of the scripts of one kind."""

    kind: str
    total: int
    shown: list[Row]
    """Each has id, technique, intent, success and `turns`: a list of (risk, level, user turn, goal)."""


@dataclass(frozen=True)
class Dropped:
    """Some of the scripts that were dropped."""

    total: int
    shown: list[Row]
    """Each has id, kind, reason, detail and attempts, all text."""


def scripts_of(run: Path) -> list[Scripts]:
    """The scripts in `seeds/`, by kind. Of a large pool, those whose ids hash lowest."""
    scripts = []
    for kind in map(str, Kind):
        rows, total = _some(run / "seeds" / f"{kind}.jsonl", PER_KIND)
        if rows:
            scripts.append(Scripts(kind.replace("_", "-"), total, [_script(row) for row in rows]))
    return scripts


def dropped_from(run: Path) -> Dropped:
    """The rows of `seeds/dropped.jsonl`."""
    rows, total = _some(run / "seeds" / "dropped.jsonl", DROPPED)
    return Dropped(total, [_drop(row) for row in rows])


def _some(path: Path, most: int) -> tuple[list[Row], int]:
    """At most `most` rows, in the file's order, and the number of all rows."""
    ids = [str(row.get("id")) for row in read_rows(path)]
    sample = set(sorted(ids, key=lambda id: sha256(id.encode(errors="replace")).digest())[:most])
    rows = [row for row in read_rows(path) if str(row.get("id")) in sample]
    return rows[:most], len(ids)


def _script(row: Row) -> Row:
    meta = _table(row.get("meta"))
    technique = [meta.get("strategy"), meta.get("escalation")]
    success = meta.get("success_turn")
    return {
        "id": _cut(row.get("id")),
        "technique": ", ".join(_cut(name).replace("_", " ") for name in technique if name),
        "intent": _cut(row.get("intent")),
        "success": f"succeeded at turn {success}" if success else "",
        "turns": [_turn(_table(turn)) for turn in row.get("turns") or []],
    }


def _turn(turn: Row) -> tuple[str, str, str, str]:
    meta = _table(turn.get("meta"))
    risk = meta.get("risk")
    if not isinstance(risk, int):
        return "–", "", _cut(turn.get("user")), _cut(meta.get("goal"))
    level = "good" if risk == 1 else "mid"
    if risk >= RISKY:
        level = "bad"
    return str(risk), level, _cut(turn.get("user")), _cut(meta.get("goal"))


def _drop(row: Row) -> Row:
    from safer_steer.data.seeds.pools import reason_in_words  # loads the library of pictures

    tried = []
    for attempt in map(_table, row.get("attempts") or []):
        words = [reason_in_words(_cut(attempt[key])) for key in ("strategy", "reason") if key in attempt]
        tried.append(", ".join(words))
    return {
        "id": _cut(row.get("id")),
        "kind": str(row.get("kind") or "pair").replace("_", "-"),
        "reason": reason_in_words(_cut(row.get("reason"))),
        "detail": _cut(row.get("detail")),
        "attempts": "; ".join(tried),
    }


def _table(value: Any) -> Row:
    return value if isinstance(value, dict) else {}


def _cut(text: Any) -> str:
    """At most `LONGEST` characters, on word boundaries if there are any."""
    text = "" if text is None else str(text)
    if len(text) <= LONGEST:
        return text
    head = text[:LONGEST]
    return f"{head.rpartition(' ')[0] or head} ..."
