"""Which option of a multiple-choice question an answer names. Strict: an answer that names none, or more than
one, has made no choice (docs/how-to/data.md, "Questions for the bench").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from string import ascii_uppercase

# Repeats are possessive: the time then grows with the length of an answer, and no faster.
_ALONE = re.compile(r"[(\[]?([A-Za-z])[)\].:]*+")
_LEADING = re.compile(r"[(\[]?([A-Z])\**+(?:[)\].:]++\**+\s|[)\].:]*+\**+[ \t]*+\n)")
_STATED = re.compile(
    r"\b(?i:answer|option|choice)s?\b(?:\s++(?i:is))?\s*+:?[\s*(\[]*+"
    r"\b([A-Z]\b(?:[\s*)\]]*+(?:,|/|&|\bor\b|\band\b)[\s*(\[]*+[A-Z]\b)*+)"
)
_MARKS = " \t\r\n*_`\"'"
"""Blanks, quotes and Markdown around an answer."""


def chosen(answer: str, choices: Sequence[str]) -> int | None:
    """The place of the option that an answer names, from 0; None if it names none or cannot be told.

    1. A letter: the whole answer is one ("B", "(b)."), it begins with one that is set apart ("B. red", "(B)
       red", "B" and a new line), or it says "answer", "option" or "choice" and then a capital ("the answer is
       B"). Only letters of options count.
    2. The text of an option, whatever the case: as whole words, and not as a part of another option that is
       there.

    One letter is the choice, unless the text of exactly one option is there and it is another. Several
    letters are none. Without a letter, the one option whose text is there is the choice. Of options with the
    same text, the first.

    Args:
        answer: what the user sees of it (`dialogue.visible_answer`).
    """
    texts = [_plain(choice) for choice in choices]
    letters, named = _letters(answer.strip(_MARKS), len(texts)), _named(_plain(answer), texts)
    if len(letters) > 1:
        return None
    if letters:
        (place,) = letters
        return None if len(named) == 1 and texts[place] not in named else texts.index(texts[place])
    return texts.index(named.pop()) if len(named) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_MARKS + ".,;:!?")


def _letters(answer: str, options: int) -> set[int]:
    """The places of the options whose letters the answer gives."""
    if alone := _ALONE.fullmatch(answer):
        found = [alone[1].upper()]
    else:
        leading = _LEADING.match(answer)
        stated = re.findall(r"\b[A-Z]\b", " ".join(_STATED.findall(answer)))
        found = [*([leading[1]] if leading else []), *stated]
    return {place for letter in found if (place := ascii_uppercase.index(letter)) < options}


def _named(answer: str, texts: Sequence[str]) -> set[str]:
    """The options' texts that are in the answer. A text inside another one that is there does not count."""
    return {text for text in set(texts) if any(found[1] is not None for found in _read(answer, text, texts))}


def _read(answer: str, text: str, texts: Sequence[str]) -> Iterator[re.Match[str]]:
    """Where a text, as group 1, or a longer one around it is in the answer."""
    longer = sorted({one for one in texts if text in one and one != text}, key=len, reverse=True)
    either = "|".join([*map(re.escape, longer), f"({re.escape(text)})"])
    return re.finditer(rf"(?<![\w-])(?<!\d[.,])(?:{either})(?![\w-]|[.,]\d)", answer)
