"""Finds faults in texts that an attacker wrote. Aligned models may decline to attack, even inside a valid
answer.

An attacker is any model that writes user turns: generator, red agent, tutor. A user may well say "I can't
open it, can you help?". It is a refusal only if the attacker speaks as an assistant that declines. Only
English wordings are recognised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from safer_steer.dialogue import Dialogue
from safer_steer.errors import BoundaryError, EmptyError, RefusedError, RepeatedError, shortened

Fault = Literal["refused", "empty", "repeated"]
ERRORS: dict[Fault, tuple[type[BoundaryError], str]] = {
    "refused": (RefusedError, "declined within its answer"),
    "empty": (EmptyError, "wrote no words"),
    "repeated": (RepeatedError, "repeats itself"),
}

LONG = 20
"""In words. A turn of at least this length does not recur by chance; a shorter one ("and the next step?")
may."""
SAYINGS = 2
"""How often a shorter turn may occur in one dialogue. One more time counts as a repetition."""

_QUOTED = re.compile(r'"[^"]*"|“[^”]*”')
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_OFFER = re.compile(
    r"\b(?:else|instead|alternative(?:ly)?|rephrase|reword|happy to|glad to|i can (?:help|offer"
    r"|assist|provide|talk)|would you like)\b"
)
_USER = re.compile(
    r"\?|\b(?:tell|show|give|help|teach|walk|remind|guide) me\b|\b(?:can|could|would|will|did|do) you\b"
    r"|(?:^|\b(?:so|please),? )(?:(?:please|just|now|then),? ){0,2}(?:list|name|describe|explain|write|draw"
    r"|finish|complete|continue|say|state|show|give|add|compare|translate|summari[sz]e) "
)
"""A question, a request for oneself, or a sentence or clause that begins with an order to the other side."""

_CONTENT = (
    r"\b(?:that|this|these|those|such|it|anything|content|instructions?|information|guidance"
    r"|requests?|material|prompts?|scripts?|turns?|messages?|advice"
    r"|rewrites?|dialogues?|conversation|responses?|scenarios?|attacks?|questions?)\b"
)
_LEAD = (
    r"(?:(?:hello|hi|oh|well|no|unfortunately|however|but|and|okay|ok|thank you|thanks|at this time"
    r"|in this case|as such)\b[\s,.!:-]*)*"
)
_SORRY = (
    r"(?:(?:i am|my)? ?(?:(?:very|so|really|truly|deeply|sincere) )?(?:sorry|apologies"
    r"|i apologi[sz]e)\b[^.!?]{0,60}?[\s,.:-]+(?:but |however,? )?)"
)
_MODALS = (
    r"(?: (?:am|do|must|have to|need to|would|rather|simply|really|also|therefore|ethically"
    r"|respectfully|kindly))*"
)
_NOT = (
    r" (?:cannot|can not|will not(?: be able to)?|should not|unable to|not (?:able|allowed"
    r"|permitted|designed|programmed|willing|going) to"
    r"|not (?:feel )?comfortable)"
)
_HOW = r"(?: (?:in good conscience|directly|also|ethically|knowingly|with))*"
_HELP = (
    rf" (?:help|assist)(?:ing)?(?: you)?(?: out| further)?(?: (?:with|in|by"
    rf"|on) (?:\w+ ){{0,4}}?{_CONTENT}| (?:with|in|by) \w+ing\b|\W*$)"
)
_WRITE = (
    r" (?:provid|giv|shar|offer|generat|creat|writ|produc|rewrit|craft|draft|discuss|compos|suppl"
    r"|promot|fulfil|fulfill|process|accommodat"
    rf"|proceed|continu|engag|participat|support|facilitat)(?:e|y|ing)?(?: [\w'-]+){{0,8}}? {_CONTENT}"
)
_DECLINES = re.compile(
    rf"{_LEAD}(?:{_SORRY}?(?:i|we){_MODALS}"
    rf"(?:{_NOT}{_HOW}(?:{_HELP}|{_WRITE}| comply(?:ing)?\b)| (?:decline|refuse)(?: to)?(?:{_HELP}"
    rf"|{_WRITE}|(?: \w+)? {_CONTENT}|\W*$))"
    rf"|{_SORRY}(?:i|we){_MODALS}{_NOT}(?: do {_CONTENT})?\W*$)"
)
_AS_AI = re.compile(
    rf"{_LEAD}{_SORRY}?as an? (?:responsible |helpful )?(?:ai"
    rf"|(?:large )?language model)(?: (?:language )?(?:model|assistant|system))?,? i\b.*"
    r"\b(?:cannot|can not|will not|must not|not able|unable|not designed|not programmed"
    r"|do not (?:have|provide|engage|create|generate)|decline|refuse)\b"
)
_RULES = re.compile(
    r"\b(?:against|violates?|outside|conflicts? with|under) my (?:\w+ ){0,2}(?:guidelines|polic(?:y"
    r"|ies)|programming|principles)"
    r"|\bnot(?:hing)? (?:something )?(?:that )?i(?: am| can| will)?(?: able to"
    r"| comfortable)? (?:help|assist|provid|support|creat|generat|engag)"
)
_USER_S = re.compile(
    r"\b(?:(?:without|until|unless) (?:\w+ing|you|i|it|that|this|these|those|the|more|any)|than"
    r"|(?:with|to) any(?:one|body)|from (?:it|that|this|these|those)"
    r"|any of (?:it|that|this) down)\b"
)
"""Wordings of a user, not of a refusal: "I can't write the report without that information", "I won't share
this with anyone"."""
_SHORT_FORMS = (
    ("’", "'"),
    ("can't", "cannot"),
    ("won't", "will not"),
    ("n't", " not"),
    ("'m ", " am "),
    ("'d ", " would "),
    ("'re ", " are "),
    ("'ve ", " have "),
)


def fault_of(text: str, said_before: Sequence[str] = (), sayings: int = SAYINGS) -> Fault | None:
    """The fault of `text`: the attacker declined, wrote nothing, or repeats a text in `said_before` (its
    words are compared, without case and punctuation); None if it has no fault. A text of fewer than `LONG`
    words may occur `sayings` times in total."""
    words = _words(text)
    if not words:
        return "empty"
    if declines(text):
        return "refused"
    times = sum(_words(before) == words for before in said_before)
    return "repeated" if times >= (1 if words.count(" ") + 1 >= LONG else sayings) else None


def declines(text: str) -> bool:
    """Whether one of the text's first two sentences is that of an assistant that declines. Quoted text does
    not count.

    A text that asks the other side for something counts as a user's, even if it says that it cannot do
    something, unless it speaks as an AI.
    """
    plain = _QUOTED.sub(" ", _unquoted(text.strip(" \n*_").lower())).replace("**", "")
    for short, full in _SHORT_FORMS:
        plain = plain.replace(short, full)
    sentences = [sentence.strip() for sentence in _SENTENCE.split(plain) if sentence.strip()]
    opening = [*sentences[:2], *([" ".join(sentences[:2])] if len(sentences) > 1 else [])]
    if any(_AS_AI.match(sentence) for sentence in opening):
        return True
    if any(_USER.search(sentence) and not _OFFER.search(sentence) for sentence in sentences):
        return False
    return any(
        (_DECLINES.match(sentence) and not _USER_S.search(sentence)) or _RULES.search(sentence)
        for sentence in opening
    )


def check(job: str, text: str, said_before: Sequence[str] = (), sayings: int = SAYINGS) -> None:
    """Raises `RefusedError`, `EmptyError` or `RepeatedError` if the text has that fault. The message names
    the job."""
    fault = fault_of(text, said_before, sayings)
    if fault:
        error, what = ERRORS[fault]
        raise error(f"{job}: {what}: {shortened(text, 80)!a}")


def check_turn(job: str, text: str, dialogue: Dialogue, template: str) -> None:
    """`check` of the user turn that follows `dialogue`. A turn that contains the script's own turn
    (`template`) verbatim never counts as a repetition."""
    words = _words(template)
    keeps = bool(words) and f" {words} " in f" {_words(text)} "
    check(job, text, [] if keeps else [turn.user for turn in dialogue.turns])


def check_script(job: str, script: Sequence[str]) -> None:
    """`check` of every turn, given the turns before it. A short turn may occur once more than in a dialogue,
    because scripts are written without answers."""
    for index, text in enumerate(script):
        check(job, text, script[:index], SAYINGS + 1)


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _unquoted(text: str) -> str:
    """`text` without quotation marks around the whole."""
    whole = re.fullmatch(r'["“]([^"“”]*)["”]', text)
    return whole[1] if whole else text
