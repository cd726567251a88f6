"""Capability kept: exact match on multiple-choice questions, for every model, and against the base
(docs/explanation/method.md, "Capability kept")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase

from safer_steer.bench.differences import difference
from safer_steer.bench.questions import QuestionSet
from safer_steer.bench.rates import Rate
from safer_steer.bench.results import Answered
from safer_steer.dialogue import Dialogue, Format, StopReason, visible_answer
from safer_steer.episode import Assistant
from safer_steer.episodes import play_all
from safer_steer.intervals import rate
from safer_steer.workers import Progress, in_parts, side_by_side

# Repeats are possessive: the time then grows with the length of an answer, and no faster.
_ALONE = re.compile(r"[(\[]?([A-Za-z])[)\].:]*+")
_LEADING = re.compile(r"[(\[]?([A-Z])\**+(?:[)\].:]++\**+\s|[)\].:]*+\**+[ \t]*+\n)")
_SAYS = r"\b(?i:answer|option|choice|(?:correct|right) one)s?\b(?:\s++(?i:is))?\s*+:?[\s*(\[]*+"
_STATED = re.compile(_SAYS + r"\b([A-Z]\b(?:[\s*)\]]*+(?:,|/|&|\bor\b|\band\b)[\s*(\[]*+[A-Z]\b)*+)")
_SMALL = re.compile(_SAYS + r"\b([a-z])\b")
_SMALL_AT_END = re.compile(_SMALL.pattern + r"[\s*)\]]*+(?:\Z|\.(?:\s|\Z)|(?<=\n))")
"""Small letters count if one ends its sentence: "the answer is a box" names none."""
_BOXED = re.compile(r"\\boxed\s*+\{\s*+(?:\\\w++\{)?[\s(]*+([A-Za-z])[\s)]*+\}")
"""As models write what a problem in mathematics comes to."""
_MINUS = str.maketrans(dict.fromkeys("\u2010\u2011\u2212\ufe63\uff0d", "-"))
_MARKS = " \t\r\n*_`\"'"
"""Blanks, quotes and Markdown around an answer."""


def chosen(answer: str, choices: Sequence[str]) -> int | None:
    """The place of the option that an answer names, from 0; None if it names none or cannot be told.

    1. A letter: the whole answer is one ("B", "(b)."), it begins with one that is set apart ("B. red", "(B)
       red", "B" and a new line), it has one in a box ("\\boxed{B}"), or it says "answer", "option", "choice"
       or "correct one" and then a capital ("the answer is B"), or a small letter at the end of the sentence.
       Only letters of options count.
    2. The text of an option, whatever the case and the kind of minus: as whole words, and not as a part of
       another option that is there.

    One letter is the choice, unless the text of exactly one option is there and it is another. Several
    letters are none. Without a letter, the one option whose text is there is the choice. Of options with the
    same text, the first.

    Args:
        answer: what the user sees of it (`dialogue.visible_answer`).
    """
    texts = [_plain(choice) for choice in choices]
    letters, options = _letters(answer.strip(_MARKS), len(texts)), _options_in(_plain(answer), texts)
    if len(letters) > 1:
        return None
    if letters:
        (place,) = letters
        return None if len(options) == 1 and texts[place] not in options else texts.index(texts[place])
    return texts.index(options.pop()) if len(options) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().translate(_MINUS).split()).strip(_MARKS + ".,;:!?")


def _letters(answer: str, options: int) -> set[int]:
    """The places of the options whose letters the answer gives."""
    if alone := _ALONE.fullmatch(answer):
        letters = [alone[1].upper()]
    else:
        leading = _LEADING.match(answer)
        stated = re.findall(r"\b[A-Z]\b", " ".join(_STATED.findall(answer)))
        small = _SMALL.findall(answer) if _SMALL_AT_END.search(answer) else []
        others = map(str.upper, [*small, *_BOXED.findall(answer)])
        letters = [*([leading[1]] if leading else []), *stated, *others]
    return {place for letter in letters if (place := ascii_uppercase.index(letter)) < options}


def _options_in(answer: str, texts: Sequence[str]) -> set[str]:
    """The options' texts that are in the answer. A text inside another one that is there does not count."""
    return {
        text for text in set(texts) if any(reading[1] is not None for reading in _finds(answer, text, texts))
    }


def _finds(answer: str, text: str, texts: Sequence[str]) -> Iterator[re.Match[str]]:
    """Where a text, as group 1, or a longer one around it is in the answer."""
    longer = sorted({one for one in texts if text in one and one != text}, key=len, reverse=True)
    either = "|".join([*map(re.escape, longer), f"({re.escape(text)})"])
    return re.finditer(rf"(?<![\w-])(?<!\d[.,])(?:{either})(?![\w-]|[.,]\d)", answer)


Answers = dict[str, list[Dialogue]]
"""A model's answers by set."""
Capability = dict[str, dict[str, Answered]]
"""The numbers by set and model."""
BASE = "base"
"""The model that the others are compared with."""


async def answer_all(
    sets: Sequence[QuestionSet],
    assistant: Assistant,
    folder: Path,
    model: str,
    in_play: int,
    progress: Progress | None = None,
) -> Answers:
    """Ask one model all questions. Answers are in `folder` at once, and no question is asked twice.

    Args:
        folder: the run's.
        in_play: questions of a set in flight at once.
        progress: called with questions (finished, all, failed), over all sets.
    """
    part = in_parts(progress, sum(len(one.seeds) for one in sets))
    asking = [
        play_all(one.seeds, assistant, None, one.journal(folder, model), concurrency=in_play, progress=part())
        for one in sets
    ]
    journals = await side_by_side(asking)
    return {one.name: list(dialogues) for one, dialogues in zip(sets, journals, strict=True)}


def outcomes(dialogues: Sequence[Dialogue], format: Format) -> dict[str, int | None]:
    """By the id of every question that was answered: 1 if the answer names the right option, 0 if another,
    None if no choice was found in it."""
    marks: dict[str, int | None] = {}
    for dialogue in dialogues:
        if dialogue.turns and dialogue.stop is StopReason.COMPLETED:
            choices, right = dialogue.meta["choices"], dialogue.meta["answer"]
            place = chosen(visible_answer(dialogue.turns[0].assistant or "", format), choices)
            marks[dialogue.id] = None if place is None else int(place == right)
    return marks


def right(dialogues: Sequence[Dialogue], format: Format) -> dict[str, int]:
    """By the id of every question that was answered: whether the answer is right. Without a choice it is
    wrong."""
    return {id: int(mark or 0) for id, mark in outcomes(dialogues, format).items()}


def capability(answers: Mapping[str, Answers], format: Format) -> Capability:
    """The numbers of all sets and models, for `summary.json`.

    Args:
        answers: each model's.

    Returns:
        By set and model. `right` is the rate of right answers over the questions that were answered; an
        answer without a choice is wrong, and counted in `no_choice`. Questions without an answer are counted
        in `failed`. `minus_base` is the difference to the base in points, paired by question; None for the
        base, and without it.
    """
    by_set: Capability = {}
    for model, sets in answers.items():
        for name, dialogues in sets.items():
            marks = outcomes(dialogues, format)
            base = answers.get(BASE, {}).get(name) if model != BASE else None
            ours = {name: right(dialogues, format)}
            by_set.setdefault(name, {})[model] = Answered(
                n=len(dialogues),
                right=Rate.model_validate(rate([(sum(map(bool, marks.values())), len(marks))])),
                no_choice=sum(mark is None for mark in marks.values()),
                failed=len(dialogues) - len(marks),
                minus_base=None if base is None else difference(ours, {name: right(base, format)}),
            )
    return by_set


def failed_share(measured: Capability) -> float:
    """The largest share, over sets and models, of questions without an answer."""
    entries = [entry for models in measured.values() for entry in models.values() if entry.n]
    return max((entry.failed / entry.n for entry in entries), default=0.0)
