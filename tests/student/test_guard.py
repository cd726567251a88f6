"""What the guard decides on the numbers of several processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from safer_steer.student.checks import Finding
from safer_steer.student.guard import FLOOR, TOLERANCE, fault, summary

SEEING = Finding("a", 1, 4, 4, 0.2, 1e-6, 2e-6, True)
TEXT = Finding("b", 0, 0, 0, None, 3e-6, 9e-6, True)


def test_a_healthy_step_is_summed_up() -> None:
    found = [SEEING, replace(SEEING, blank_shift=0.4), TEXT]
    assert fault(found, "float32", begins=True) is None
    assert summary(found) == {
        "dialogues": 3,
        "with_pictures": 2,
        "blank_shift": pytest.approx(0.3),
        "engine_gap": 3e-6,
        "engine_gap_max": 9e-6,
        "picture_tokens": 8,
        "picture_features": 8,
        "rendered_again": 3,
    }


def test_a_dialogue_of_any_process_is_enough_to_stop() -> None:
    for lost in (replace(SEEING, reached=3), replace(SEEING, picture_tokens=0, reached=0)):
        assert (fault([SEEING, TEXT, lost], "float32", True) or "").startswith("picture tokens: ")
    for other in (replace(TEXT, rerendered=False), Finding("", rerendered=False)):
        assert (fault([SEEING, TEXT, other], "float32", True) or "").startswith("ids: ")
    assert (fault([SEEING, replace(TEXT, gap=2e-4)], "float32", True) or "").startswith("engine: ")


def test_one_dialogue_whose_answers_do_not_depend_on_its_picture_is_no_blindness() -> None:
    blind = replace(SEEING, blank_shift=FLOOR)
    assert fault([blind, SEEING], "float32", True) is None
    assert "this model ignores pictures" in (fault([blind, blind], "float32", True) or "")
    assert "the student has stopped seeing" in (fault([blind, TEXT], "float32", False) or "")


def test_the_cause_depends_on_the_pictures_and_on_whether_the_first_check_was_passed() -> None:
    seeing, text = replace(SEEING, gap=0.06), replace(TEXT, gap=0.06)
    assert "pictures at other positions" in (fault([seeing], "bfloat16", True) or "")
    assert "other weights or another number type" in (fault([text], "bfloat16", True) or "")
    assert "not those of this step" in (fault([seeing], "bfloat16", False) or "")
    assert fault([replace(seeing, gap=TOLERANCE["bfloat16"])], "bfloat16", False) is None


def test_what_cannot_be_measured_stops_nothing() -> None:
    unknown = replace(SEEING, reached=None, gap=None, gap_max=None, rerendered=None)
    assert fault([unknown], "float32", True) is None
    assert summary([unknown])["picture_features"] is None and summary([unknown])["engine_gap"] is None
