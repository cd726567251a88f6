"""What the checks say of the numbers of several processes, and that the documentation lists them."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest

from places import ROOT
from safer_steer.student.checks import CHECKS, CREDIT, FLOOR, HEAD, PIXELS, TOLERANCE, fault, summary
from safer_steer.student.findings import Finding, Step, Weights

SEEING = Finding(
    "a",
    tokens=5,
    credit=0.5,
    due=0.5,
    sampled=5,
    gap=1e-6,
    gap_max=2e-6,
    looked=True,
    pictures=1,
    picture_tokens=4,
    reached=4,
    pixel_gap=0.0,
    blank_shift=0.2,
    rerendered=True,
    mode_gap=1e-6,
    head_gap=2e-6,
)
TEXT = Finding("b", 3, sampled=3, gap=3e-6, gap_max=9e-6, looked=True, reached=0, rerendered=True)
LATER = Finding("c", 2, sampled=2, gap=3e-6)
LEARNING = Weights("the language model", 0.1, True, moved=1e-4)


def said(*findings: Finding, number_type: str = "float32", begins: bool = True) -> str:
    failed = fault(Step(findings, [LEARNING], number_type, begins))
    return failed[1] if failed else ""


def test_a_healthy_step_is_summed_up() -> None:
    step = Step([SEEING, replace(SEEING, blank_shift=0.4), TEXT, LATER], [LEARNING])
    assert fault(step) is None and fault(step, after=True) is None
    assert summary(step) == {
        "dialogues": 3,
        "with_pictures": 2,
        "compared": 4,
        "loss_tokens": 15,
        "credit_off": 0.0,
        "blank_shift": pytest.approx(0.3),
        "head_gap": 2e-6,
        "mode_gap": 1e-6,
        "engine_gap": 3e-6,
        "engine_gap_max": 9e-6,
        "picture_tokens": 8,
        "picture_features": 8,
        "pixel_gap": 0.0,
        "rendered_again": 3,
        "gradient": 0.1,
        "moved": 1e-4,
    }


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (Finding(""), "ids: the trainer feeds ids that belong to no dialogue"),
        (replace(LATER, labels=2), "labels: 2 labels of dialogue c"),
        (replace(LATER, outside=3), "loss mask: the loss of dialogue c is taken over 3 tokens"),
        (replace(LATER, left_out=1), "loss mask: the loss of dialogue c is taken over 0 tokens"),
        (replace(SEEING, due=0.5 + 2 * CREDIT), "credit: the loss weighs the answers of dialogue a with 0.5"),
        (replace(LATER, paired=False), "credit: the loss compares the answer of c with another"),
        (
            replace(SEEING, head_gap=2e-4),
            "own forward pass: the trainer's log-probabilities of dialogue a are 0.0",
        ),
        (replace(TEXT, mode_gap=2e-4), "training mode: the log-probabilities of dialogue b differ by 0.0002"),
        (replace(SEEING, reached=3), "picture tokens: the ids of dialogue a have 4, but 3 positions get"),
        (replace(SEEING, picture_tokens=0, reached=0), "picture tokens: dialogue a has 1 picture"),
        (replace(SEEING, pixel_gap=2 * PIXELS), "pictures: dialogue a is trained with others"),
        (replace(SEEING, pixel_gap=inf), "pictures: dialogue a is trained with others"),
        (replace(TEXT, rerendered=False), "template: the chat template renders dialogue b otherwise"),
        (replace(TEXT, gap=2e-4), "engine: its log-probabilities of dialogue b differ"),
    ],
)
def test_a_dialogue_of_any_process_is_enough_to_stop(wrong: Finding, complaint: str) -> None:
    assert said(SEEING, TEXT, wrong, LATER).startswith(complaint)


def test_a_step_of_which_nothing_was_seen_is_no_healthy_one() -> None:
    assert said().startswith("ids: ")


def test_one_dialogue_whose_answers_do_not_depend_on_its_picture_is_no_blindness() -> None:
    blind = replace(SEEING, blank_shift=FLOOR)
    assert not said(blind, SEEING)
    assert "this model ignores pictures" in said(blind, blind)
    assert "the student has stopped seeing" in said(blind, TEXT, begins=False)


def test_dialogues_with_pictures_of_which_none_is_trained_stop_the_run() -> None:
    silent = replace(SEEING, tokens=0, sampled=0, gap=None, gap_max=None, mode_gap=None, head_gap=None)
    assert not said(silent, SEEING)
    assert not said(replace(TEXT, tokens=0))
    assert said(silent, silent, TEXT).startswith(
        "trained tokens: none of the 2 dialogue(s) with pictures has one"
    )


def test_in_bfloat16_the_bounds_on_head_and_mode_are_wider() -> None:
    far = replace(SEEING, head_gap=HEAD["bfloat16"], mode_gap=TOLERANCE["bfloat16"])
    assert said(far).startswith("own forward pass: ") and not said(far, number_type="bfloat16")
    assert said(replace(far, head_gap=nan, mode_gap=nan)) == "", "the gradient's check says so"


def test_the_cause_depends_on_the_pictures_and_on_whether_the_first_check_was_passed() -> None:
    seeing, text = replace(SEEING, gap=0.06), replace(TEXT, gap=0.06)
    assert "pictures at other positions" in said(seeing, number_type="bfloat16")
    assert "other weights or another number type" in said(text, number_type="bfloat16")
    assert "not those of this step" in said(seeing, number_type="bfloat16", begins=False)
    assert not said(replace(seeing, gap=TOLERANCE["bfloat16"]), number_type="bfloat16", begins=False)


def test_the_gap_of_a_step_is_bounded_and_that_of_a_dialogue_only_if_it_is_looked_at() -> None:
    """A short dialogue may be far off in bfloat16."""
    short, long = replace(LATER, gap=0.3, sampled=2), replace(LATER, gap=0.01, sampled=98)
    assert Step([short, long]).logprob_gap == pytest.approx(0.0158)
    assert not said(short, long, number_type="bfloat16")
    assert "(logprob_gap) differ" in said(short, replace(long, sampled=2), number_type="bfloat16")
    assert "of dialogue c differ" in said(replace(short, looked=True), long, number_type="bfloat16")


def test_a_gradient_is_due_only_where_there_is_something_to_learn() -> None:
    def complaint(**facts: object) -> str:
        step = Step([SEEING], [replace(LEARNING, **facts)], learning_rate=1e-5)
        failed = fault(step) or fault(step, after=True)
        return failed[1] if failed else ""

    assert complaint(gradient=0.0).startswith("gradient: that of the language model is 0, although")
    assert complaint(gradient=0.0, frozen=True).endswith("it is frozen (requires_grad)")
    assert not complaint(gradient=0.0, due=False, moved=None)
    assert complaint(gradient=nan).startswith("gradient: that of the language model is not a number")
    assert complaint(gradient=inf, due=False).startswith("gradient: ")
    assert complaint(moved=0.0).startswith("weights: the language model has a gradient (up to 0.1), but")
    assert "a learning rate of 1e-05" in complaint(moved=0.0)
    assert not complaint(moved=None)


def test_what_cannot_be_measured_stops_nothing() -> None:
    unknown = replace(SEEING, reached=None, gap=None, gap_max=None, rerendered=None, pixel_gap=None)
    assert not said(unknown)
    numbers = summary(Step([unknown]))
    assert numbers["picture_features"] is None and numbers["engine_gap"] is None


def test_the_documentation_lists_the_checks() -> None:
    rows = [
        f"| {check.name} | {'step' if check.every_step else 'look'} | {check.passes} | "
        + (", ".join(f"`{number.key}`" for number in check.numbers) or "–")
        + " |"
        for check in CHECKS
    ]
    table = (ROOT / "docs/explanation/checks.md").read_text().partition("| --- |")[2].partition("\n\n")[0]
    assert table.splitlines()[1:] == rows
