"""The journals of a bench, `bench/<model>/<journal>.jsonl`: their names say what was played."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from safer_steer.bench.adaptive.results import ADAPTIVE

JournalKind = Literal["multi_turn", "adaptive", "single_turn"]
"""A suite, by its protocol, or intents by an attacker that adapts."""
BEGINS: dict[JournalKind, str] = {"multi_turn": "", "adaptive": ADAPTIVE, "single_turn": "single_turn_"}
"""What the names begin with; in the order of the page."""


def journal_of(folder: Path, kind: JournalKind, name: str) -> Path:
    """Where the dialogues of a suite or an attacker are kept, in a model's folder `bench/<model>`."""
    return folder / f"{BEGINS[kind]}{name}.jsonl"


def kind_of(journal: str) -> JournalKind:
    """What was played, by the name of a journal without its ending."""
    begin = next((begin for begin in BEGINS.values() if begin and journal.startswith(begin)), "")
    return next(kind for kind in BEGINS if BEGINS[kind] == begin)


def name_in(journal: str) -> str:
    """The suite or attacker of a journal."""
    return journal.removeprefix(BEGINS[kind_of(journal)])


def journals_in(folder: Path, kind: JournalKind) -> list[Path]:
    """A model's journals of one kind."""
    return [path for path in sorted(folder.glob("*.jsonl")) if kind_of(path.stem) == kind]
