"""The commonest reason is named, whatever numbers stand in it."""

from safer_steer.dialogue import Dialogue, Kind, Turn
from safer_steer.workers import Reasons, reasons_in


def test_reasons_that_differ_in_numbers_are_one() -> None:
    reasons = Reasons(["3 tries: HTTP 500: id 5e1-a", "no reply", "6 tries: HTTP 500: id 77-b"])
    assert reasons.commonest == "6 tries: HTTP 500: id 77-b (2 of 3)"
    assert Reasons(["HTTP 404", "HTTP 500", "HTTP 404"]).commonest == "HTTP 404 (2 of 3)"
    assert Reasons(["no reply", "no reply"]).commonest == "no reply"
    assert Reasons().commonest == ""


def test_the_reasons_of_dialogues_are_their_errors_and_those_of_their_turns() -> None:
    lost = Dialogue(id="a", kind=Kind.BENIGN, meta={"error": "no reply"})
    unscored = [Turn(user="x", meta={"unscored": "unparsable"}) for _ in range(2)]
    assert (
        reasons_in([lost, Dialogue(id="b", kind=Kind.BENIGN, turns=unscored)]).commonest
        == "unparsable (2 of 3)"
    )
