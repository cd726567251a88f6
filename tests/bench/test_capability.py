"""Capability kept: sets of questions, what an answer chooses, the run and its resume, the numbers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from published import SCIENCEQA, pictures
from safer_steer.bench.capability import capability, chosen, outcomes
from safer_steer.bench.questions import bring_in_sets, check_sets
from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Format, Kind, StopReason, Turn
from safer_steer.errors import UserError
from safer_steer.experiments.measures import MEASURES
from safer_steer.intervals import paired
from safer_steer.sandbox.language import understand
from safer_steer.sandbox.suites import questions
from safer_steer.sandbox.world import from_png, new_devices

COLOURS = ("red", "dark red", "blue", "12")


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ("B", 1),
        ("(b).", 1),
        ("**C**", 2),
        ("C. blue", 2),
        ("(C) since blue is the colour of the sky", 2),
        ("C\n\nThe picture shows a blue box, not a red one.", 2),
        ("The answer is B.", 1),
        ("Answer: (D)", 3),
        ("I would take option C, not red.", None),  # its letter and the text of another
        ("I would take option C.", 2),
        ("It is blue.", 2),
        ("It is Dark  Red!", 1),
        ("It is red.", 0),
        ("It is red, not dark red.", None),
        ("It is red or blue.", None),
        ("A. blue", None),
        ("The answer is A or B.", None),
        ("E", None),
        ("F. blue", 2),  # no option has this letter
        ("It is 12.5 cm.", None),
        ("It is -12.", None),
        ("It is 12.", 3),
        ("It is reddish.", None),
        ("It is blue-green.", None),
        ("A small box.", None),
        ("The answer is **( B )**.", 1),
        ("Answer:\n\n  [C], as it is.", 2),
        ("The options (A), ** B**) and C are wrong.", None),
        ("The answer Is it.", None),
        ("The answer isolated B", None),
        ("A*) red", 0),
        ("**B**: dark red", 1),
        ("B)**  \nblue or red", 1),
        ("A* and more", None),
        ("Neither red nor blue, but dark red: dark red.", None),
        (r"So $\boxed{B}$ it is.", 1),
        (r"Hence \boxed{\text{(C)}}.", 2),
        (r"A red box; \boxed{blue}", None),
        (r"\boxed{A} or \boxed{B}", None),
        (r"\boxed{x}", None),
        ("the answer is b", 1),
        ("The correct choice is (c).", 2),
        ("The answer is **d**\n\nThe sky says so.", 3),
        ("the answer is a box", None),
        ("the answer is b or c.", None),
        ("either option a or option b.", None),
        ("Option A is red; the correct one is B", None),
        ("It is \u221212.", None),
        ("I cannot help with that.", None),
        ("", None),
    ],
)
def test_what_an_answer_chooses(answer: str, place: int | None) -> None:

    assert chosen(answer, COLOURS) == place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "again"),
    [
        *(("The answer", again) for again in (" ", "\n", "*", "(", "[", " *(", " is", ":")),
        *(("the answer is a", again) for again in (" ", "*", ")", " option a", ". Answer b")),
        *(("\\boxed", again) for again in (" ", "{", "{ ", "{(", "{\\text", "{a")),
        *(("The answer is A", again) for again in (" ", "*", ")", "]", " *)", ",", " or ", ", A")),
        *(("A", again) for again in ("*", ")", ".*", " ", ")\t")),
        *(("", again) for again in ("red ", "dark red ", "A red, ", "the answer ")),
    ],
)
def test_a_long_answer_is_read_in_a_time_that_grows_with_its_length(begin: str, again: str) -> None:
    answer = (begin + again * 1_000_000)[:1_000_000] + "x"
    start = time.process_time()
    chosen(answer, COLOURS)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("minus", "-\u2010\u2011\u2212\ufe63\uff0d")
def test_a_minus_is_a_minus_however_it_is_written(minus: str) -> None:
    assert chosen(f"the answer is {minus}3", ["3", "-3"]) == chosen(f"{minus}3", ["3", "\u22123"]) == 1
    assert chosen(f"It is 5{minus}3.", ["3", "5"]) is None


def test_options_of_the_same_text_are_one() -> None:
    assert [chosen(answer, ("red", "blue", "Red")) for answer in ("C", "A", "it is red")] == [0, 0, 0]


def own_set(folder: Path, count: int = 4, **more: Any) -> Path:
    pictures(folder, *(f"p/{i}.png" for i in range(2)))
    rows = [
        {"id": f"q{i}", "image": f"p/{i % 2}.png", "question": f"number {i}?", "choices": ["no", "yes"]}
        | {"answer": i % 2}
        | more
        for i in range(count)
    ]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_set_of_ones_own_is_asked_with_letters_and_copied_with_its_pictures(tmp_path: Path) -> None:
    path = own_set(tmp_path)
    (mine,) = bring_in_sets([str(path)], tmp_path / "run", None, 100)
    assert mine.name == "mine" and [seed.id for seed in mine.seeds] == [f"mine-q{i}" for i in range(4)]
    first = mine.seeds[0]
    assert first.script == ["number 0?\nA. no\nB. yes\nAnswer with the letter of the right option."]
    assert first.meta == {"choices": ["no", "yes"], "answer": 0} and first.kind is Kind.BENIGN
    with Image.open(tmp_path / "run" / first.images[0]) as picture:
        assert picture.width * picture.height <= 100, "scaled down"
    assert (tmp_path / "run" / "capability" / "mine" / "questions.jsonl").is_file()
    (few,) = bring_in_sets([str(path)], tmp_path / "few", 2, 100)
    (again,) = bring_in_sets([str(path)], tmp_path / "again", 2, 100)
    assert len(few.seeds) == 2 and few.seeds == again.seeds


@pytest.mark.parametrize("form", ["parquet folder", "json lines"])
def test_scienceqa_is_read_as_it_is_published(tmp_path: Path, form: str) -> None:
    """Its test split, with hints, lettered options, embedded pictures, and questions without one."""
    extra = {"task": "closed choice", "grade": "grade2", "lecture": "", "solution": ""}
    folder = tmp_path / "ScienceQA"
    (folder / "data").mkdir(parents=True)
    if form == "parquet folder":
        for split, rows in (("train", SCIENCEQA[:1]), ("test", SCIENCEQA)):
            table = Dataset.from_list([row | extra for row in rows])
            table.to_parquet(folder / "data" / f"{split}-00000-of-00001-f0e719df791966ff.parquet")
        path = folder
    else:
        pictures(folder, "0.png")
        path = folder / "ScienceQA.jsonl"
        path.write_text("".join(json.dumps(row | {"image": "0.png"} | extra) + "\n" for row in SCIENCEQA))
    (science,) = bring_in_sets([str(path)], tmp_path / "run", None, 100_000)
    assert science.name == "ScienceQA" and len(science.seeds) == len(SCIENCEQA)
    assert science.seeds[0].script == [
        "Look.\nWhich is round?\nA. a ring\nB. a box\nAnswer with the letter of the right option."
    ]
    assert [seed.meta["answer"] for seed in science.seeds] == [row["answer"] for row in SCIENCEQA]
    shown = [len(seed.images) for seed in science.seeds]
    assert shown == ([1, 0, 1] if form == "parquet folder" else [1, 1, 1])
    assert all((tmp_path / "run" / image).is_file() for seed in science.seeds for image in seed.images)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"answer": 2}, r"mine.jsonl:1: answer: is 2; give the place of one of 2 choices, from 0"),
        ({"choices": "a, b"}, r"mine.jsonl:1: choices: is \"a, b\"; give a list"),
        ({"image": "p/7.png"}, r"mine.jsonl:1: image: .*p/7.png: no such picture"),
        ({"images": ["p/0.png"]}, "give either `image` or `images`"),
    ],
)
def test_a_bad_question_is_one_line_before_anything_is_written(
    tmp_path: Path, more: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError, match=line) as error:
        check_sets([str(own_set(tmp_path, **more))], None)
    assert "\n" not in str(error.value)


def test_sets_need_names_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another set is called 'mine' too"):
        check_sets([str(own_set(tmp_path)), str(own_set(tmp_path))], None)
    with pytest.raises(UserError, match="another set is called 'sandbox' too"):
        check_sets([str(own_set(tmp_path).rename(tmp_path / "sandbox.jsonl"))], None)
    with pytest.raises(UserError, match=r"bench.capability: .*nowhere.jsonl: no such file or folder"):
        check_sets([str(tmp_path / "nowhere.jsonl")], None)


def test_the_sandbox_s_questions_are_balanced_and_about_unmarked_held_out_devices() -> None:
    found = questions()
    assert len(found) == len({question.id for question in found}) == 112 == 2 * 7 * len(new_devices())
    assert sum(question.right for question in found) == 56
    shown = [from_png(question.picture) for question in found]
    assert {device for device, _ in shown} == set(new_devices()) and not any(marked for _, marked in shown)
    for question, (device, _) in zip(found, shown, strict=True):
        request = understand(question.text)
        assert request is not None and request.form == "choice"
        assert request.answer(device) == f"{question.choices[question.right]}."
        assert chosen(request.answer(device), question.choices) == question.right
        assert question.choices[0] != question.choices[1]
        assert all(choice in question.text for choice in question.choices)
    assert found == questions()


def answered(*answers: str | None, format: Format = Format.PLAIN) -> list[Dialogue]:
    """Questions whose right option is the first, "red"; None was not answered."""
    return [
        Dialogue(
            id=f"q{i}",
            kind=Kind.BENIGN,
            turns=[Turn(user="which?", assistant=text)] if text is not None else [],
            stop=StopReason.COMPLETED if text is not None else StopReason.ASSISTANT_FAILED,
            meta={"choices": ["red", "blue"], "answer": 0},
        )
        for i, text in enumerate(answers)
    ]


def test_the_numbers_by_hand() -> None:
    theirs = answered("A", "A", "A", "B", None, "A")
    ours = answered("A", "B", "who knows", "red", "A", None)
    found = capability({"base": {"s": theirs}, "sft": {"s": ours}}, Format.PLAIN)["s"]
    base, sft = found["base"], found["sft"]
    assert (base.n, base.failed, base.no_choice) == (6, 1, 0)
    assert base.right.value == 80 and base.minus_base is None
    assert (sft.n, sft.failed, sft.no_choice) == (6, 1, 1)
    assert sft.right.value == 60
    assert sft.minus_base and dict(sft.minus_base) == paired([1, -1, -1, 0]) | {"n": 4}
    assert sft.minus_base.value == -25
    alone = capability({"served": {"s": ours}}, Format.PLAIN)["s"]["served"]
    assert alone.minus_base is None


def test_only_the_visible_answer_counts() -> None:
    said = ("<thinking>blue</thinking><answer>red</answer>", "<thinking>red</thinking>", "red")
    marks = outcomes(answered(*said), Format.THINKING_ANSWER)
    assert list(marks.values()) == [1, None, None]


def test_the_paired_interval_covers() -> None:
    """At least 93 % of the time, whatever the two rates and how they hang together; and it is never of no
    width."""
    random = np.random.default_rng(0)
    for gain, loss in ((0.0, 0.0), (0.02, 0.02), (0.0, 0.05), (0.1, 0.02), (0.3, 0.3)):
        drawn = random.multinomial(112, [gain, loss, 1 - gain - loss], size=2000)
        found = [paired([1] * up + [-1] * down + [0] * same) for up, down, same in drawn.tolist()]
        truth = 100 * (gain - loss)
        covered = [found_["low"] <= truth <= found_["high"] for found_ in found]
        assert np.mean(covered) >= 0.93, (gain, loss, np.mean(covered))
        assert all(entry["low"] < entry["high"] for entry in found)
    assert paired([]) == {"value": None, "low": None, "high": None}
    assert paired([1] * 5)["high"] == 100


def test_the_measure_reads_the_answers_of_a_run(tmp_path: Path) -> None:
    from safer_steer.config.file import dump_config
    from safer_steer.dialogue import to_jsonl
    from safer_steer.files.store import write_atomic

    config = Config.model_validate({"student": {"format": "plain"}})
    write_atomic(tmp_path / "config.yaml", dump_config(config))
    measure = MEASURES["multiple choice, right"]
    assert measure.hits(tmp_path / "bench" / "sft") == {}
    rows = to_jsonl(answered("A", "B", "hm", None))
    write_atomic(tmp_path / "capability" / "s" / "answers" / "sft.jsonl", rows)
    assert measure.hits(tmp_path / "bench" / "sft") == {"s q0": 1, "s q1": 0, "s q2": 0}
