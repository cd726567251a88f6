"""The journals of a bench, `bench/<model>/<journal>.jsonl`: their names say what was played."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from safer_steer.bench.adaptive.results import ADAPTIVE

Played = Literal["multi_turn", "adaptive", "single_turn"]
"""A protocol of suites, or attackers that adapt."""
BEGINS: dict[Played, str] = {"multi_turn": "", "adaptive": ADAPTIVE, "single_turn": "single_turn_"}
"""What the names begin with, in the order of the page's dialogues."""


def journal_of(folder: Path, played: Played, name: str) -> Path:
    """Where the dialogues of a suite or an attacker are kept, in a model's folder `bench/<model>`."""
    return folder / f"{BEGINS[played]}{name}.jsonl"


def played_in(journal: str) -> Played:
    """What was played, by the name of a journal without its ending."""
    return next(
        (played for played, begin in BEGINS.items() if begin and journal.startswith(begin)), "multi_turn"
    )


def name_in(journal: str) -> str:
    """The suite or attacker of a journal."""
    return journal.removeprefix(BEGINS[played_in(journal)])


def journals_in(folder: Path, *played: Played) -> list[Path]:
    """A model's journals of these kinds."""
    return [path for path in sorted(folder.glob("*.jsonl")) if played_in(path.stem) in played]
