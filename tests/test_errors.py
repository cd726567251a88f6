"""Messages are one line, and no word in them is cut."""

import pytest

from safer_steer.errors import shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("one two", "one two"),
        (" one\n two\t", "one two"),
        ("one two three four", "one two three four"),
        ("one two three fours", "one two three..."),
        ("one two three fo urs", "one two three..."),
        ("onetwothreefoursfives", "onetwothreefour..."),
        ("one twothreefoursfives", "one twothreefou..."),
        ("x " * 1000, "x x x x x x x x..."),
        ("one" + " " * 1000, "one..."),
        ("\x1b[2J \ud800 \u202e", "?[2J ? ?"),
    ],
)
def test_a_text_is_cut_between_words(text: str, shown: str) -> None:
    assert shortened(text, 18) == shown
