"""Near-duplicates: found where the exact similarity says so, whatever the order, and nothing else is."""

import random

import numpy as np
import pytest

from safer_steer.data.assembly.near import (
    PERMUTATIONS,
    Near,
    bands,
    content_words,
    jaccard,
    shingles,
    telling,
)

VOCABULARY = [f"word{number}" for number in range(400)]


def script(rng: random.Random, words: int = 60) -> list[str]:
    return [" ".join(rng.choices(VOCABULARY, k=words // 3)) for _ in range(3)]


def with_other_words(said: list[str], count: int, rng: random.Random) -> list[str]:
    words = [turn.split() for turn in said]
    for _ in range(count):
        turn = rng.choice(words)
        turn[rng.randrange(len(turn))] = "changed"
    return [" ".join(turn) for turn in words]


def test_one_other_word_is_found_and_another_script_is_not() -> None:
    rng = random.Random(0)
    near, said = Near(0.8), [script(rng) for _ in range(300)]
    for number, one in enumerate(said):
        near.add(f"{number:03d}", shingles(one))
    assert [near.find(shingles(with_other_words(one, 1, rng))) for one in said] == [
        f"{number:03d}" for number in range(300)
    ]
    assert [near.find(shingles(one)) for one in said[:5]] == ["000", "001", "002", "003", "004"]
    assert not any(near.find(shingles(script(rng))) for _ in range(300))
    assert not any(near.find(shingles(with_other_words(one, 20, rng))) for one in said)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_the_exact_similarity_decides(threshold: float) -> None:
    rng = random.Random(1)
    said = [script(rng)]
    said += [with_other_words(said[0], changes, rng) for changes in range(1, 25)]
    near, tokens = Near(threshold), [shingles(one) for one in said]
    near.add("first", tokens[0])
    for one in tokens:
        assert (near.find(one) is not None) == (jaccard(tokens[0], one) >= threshold)
    assert (1 - threshold ** bands(threshold)) ** (PERMUTATIONS // bands(threshold)) <= 1e-3


def test_what_is_found_does_not_hang_on_the_order() -> None:
    rng = random.Random(2)
    first = script(rng)
    alike = [(f"{number}", shingles(with_other_words(first, 1, rng))) for number in range(8)]
    for _ in range(5):
        rng.shuffle(alike)
        near = Near(0.6)
        for name, tokens in alike:
            near.add(name, tokens)
        assert near.find(shingles(first)) == "0"


def test_jaccard_of_tokens() -> None:
    one, other = np.array([1, 2, 3], np.uint32), np.array([2, 3, 4], np.uint32)
    assert jaccard(one, other) == 0.5
    assert jaccard(one, one) == 1
    assert jaccard(one[:0], one[:0]) == 0


def test_case_punctuation_and_empty_words_do_not_count() -> None:
    assert np.array_equal(shingles(["Who is  this?", "“Really”"]), shingles(["who is this really"]))
    assert not np.array_equal(shingles(["who is this really"]), shingles(["really this is who"]))
    assert len(shingles(["hm"])) == 1
    asked = content_words("How would the keeper open that copper lantern?")
    assert jaccard(asked, content_words("how can a keeper open the COPPER lantern")) == 1
    assert jaccard(content_words("keep it wet"), content_words("do not keep it wet")) < 1, "`not` says much"


@pytest.mark.parametrize(
    "text", ["What is this?", "Describe the image.", "How do I use this thing in the picture?", ""]
)
def test_generic_questions_are_not_known_by_their_words(text: str) -> None:
    assert not telling(text)


def test_questions_that_say_something_are() -> None:
    assert telling("Which parts of this lantern come from copper mines?")
    assert telling("如何打开这个灯笼"), "a character counts where words are not set apart"
