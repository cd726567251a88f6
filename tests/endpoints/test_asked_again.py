"""A request that was repeated: one record, whichever row it is read from."""

import pytest

from safer_steer.endpoints.asked_again import FIRST, TEMPLATE, Request
from safer_steer.errors import EmptyError, EndpointError, Fault, RefusedError, UnparsableError

FAULTS = ("refused", "empty", "repeated", "unparsable")


def test_a_fault_is_asked_about_once_more_unless_the_model_was_already():
    asked = Request()
    assert asked.again(RefusedError("no")) and not asked.again(EmptyError("nothing"))
    assert asked.faults == ["refused", "empty"]
    assert not Request().again(UnparsableError("no JSON"))


@pytest.mark.parametrize("approach", ["other side", TEMPLATE])
def test_what_is_noted_of_a_turn_is_read_again(approach: str):
    asked = Request()
    asked.again(RefusedError("no"))
    noted = asked.noted(approach)
    assert noted == {"faults": ["refused"], "approach": approach}
    assert Request.of_turn(noted) == Request(["refused"], approach, approach == TEMPLATE, attempts=2)


def test_where_nothing_is_noted_all_went_well():
    assert Request.of_turn(None) == Request.of_turn({}) == Request([], FIRST, False, attempts=1)


@pytest.mark.parametrize(("faults", "attempts"), [(["unparsable"], 1), (["refused", "unparsable"], 2)])
def test_a_last_move_without_a_turn(faults: list[str], attempts: int):
    assert Request.of_dialogue(faults, gave_up=True) == Request(faults, FIRST, True, attempts)


def test_a_tutor_without_a_verdict():
    assert Request.without_verdict(RefusedError("no").fault) == Request(["refused"] * 2, FIRST, True, 2)
    assert Request.without_verdict(Fault("unparsable", "no JSON")) == Request(["unparsable"], FIRST, True, 1)
    assert Request.without_verdict(EndpointError("down").fault) is None


@pytest.mark.parametrize(
    ("rows", "asked"),
    [
        ([{"made": {}}], Request()),
        ([{"failed": "refused: x: y"}, {"made": {}}], Request(["refused"], FIRST, False, 2)),
        ([{"failed": "empty: x"}, {"failed": "empty: x"}], Request(["empty"] * 2, FIRST, True, 2)),
        (
            [{"failed": "refused: x"}, {"failed": "failed_attack: completed"}],
            Request(["refused"], FIRST, False, 2),
        ),
    ],
)
def test_the_attempts_of_a_job(rows: list[dict], asked: Request):
    assert Request.of_rows(rows, FAULTS) == asked
