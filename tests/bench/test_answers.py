"""What answers lack, and which are the same."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safer_steer.bench.answers import COUNTED, AnswerCounts, lack, total
from safer_steer.dialogue import Format, visible_answer

PIECES = st.sampled_from(["<answer>", "</answer>", "<thinking>", "</thinking>", " ", "\n", "word", ""])


@pytest.mark.parametrize(
    ("text", "in_blocks", "plain"),
    [
        ("<thinking>t</thinking><answer>yes</answer>", None, None),
        ("<answer>yes", None, None),
        ("yes", "no_block", None),
        ("<thinking>yes</thinking>", "no_block", None),
        ("<thinking>yes</thinking><answer> \n</answer>", "empty", None),
        ("<answer>", "empty", None),
        (" \n", "empty", "empty"),
        ("", "empty", "empty"),
    ],
)
def test_why_there_is_nothing_to_see(text: str, in_blocks: str | None, plain: str | None) -> None:
    assert (lack(text, Format.THINKING_ANSWER), lack(text, Format.PLAIN)) == (in_blocks, plain)


@given(st.lists(PIECES).map("".join), st.sampled_from(Format))
def test_an_answer_lacks_something_exactly_where_nobody_sees_it(text: str, format: Format) -> None:
    assert (lack(text, format) is None) == bool(visible_answer(text, format))


Said = tuple[str, str, str, str]
"""Suite, dialogue, question and answer."""


def counted(said: Iterable[Said]) -> dict[str, dict[str, int]]:
    counts = AnswerCounts(Format.PLAIN)
    for one in said:
        counts.add(*one, {})
    return counts.by_group()


def test_a_twin_s_equal_answer_to_the_same_question_is_not_identical() -> None:
    said = [("attacks", "d", "How?", "No."), ("twins", "d", "How?", "No."), ("twins", "d", "Why?", "No.")]
    assert [group["identical"] for group in counted(said).values()] == [1, 1], "only How? against Why?"
    assert total(counted(said[:2]).values())["identical"] == 0
    assert total(counted([said[0], ("attacks", "d", "Why?", "No.")]).values())["identical"] == 0


ANSWERS = st.lists(
    st.tuples(
        st.sampled_from(["s", "t"]),
        st.sampled_from("def"),
        st.sampled_from("uvw"),
        st.sampled_from(["a", "b", ""]),
    ),
    max_size=12,
)


@given(ANSWERS)
def test_identical_is_what_another_dialogue_said_to_another_question(said: list[Said]) -> None:
    marked = {
        place
        for (place, one), other in product(enumerate(said), said)
        if one[3] and one[3] == other[3] and one[:2] != other[:2] and one[2] != other[2]
    }
    found = counted(said)
    assert total(found.values())["identical"] == len(marked)
    for group, counts in found.items():
        assert counts["identical"] == sum(said[place][0] == group for place in marked)
        assert set(counts) == set(COUNTED) and counts["answers"] == sum(one[0] == group for one in said)
