"""The balance of the data sets in words, whatever a data set calls its sources and categories."""

from typing import Any

from safer_steer.data.assembly.balance import balance_of, in_words
from safer_steer.data.assembly.candidates import Candidate
from safer_steer.dialogue import Kind


def of(source: str = "", category: str = "") -> Candidate:
    return Candidate("a", Kind.RED_TEAM, source, category, False, "pair", "", 3, "order", 0)


def table_of(*candidates: Candidate, notes: tuple[str, ...] = ()) -> str:
    balance: dict[str, Any] = {"notes": notes, "bench": "", "rules": {}, "left_out": {}}
    return in_words(balance | {"splits": {"sft": balance_of(candidates)}})


def test_numbers_come_by_value_then_words_and_numbers_that_no_number_holds() -> None:
    names = ["9", "10", "120", "7" * 5000, "weapons"]
    text = table_of(*(of(category=name) for name in reversed(names)))
    places = [text.index(f"\n| {name} | 1 |") for name in names]
    assert places == sorted(places)
