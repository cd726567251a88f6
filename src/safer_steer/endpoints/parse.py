"""Parses a model's reply into a JSON object. Tolerant of text around the object, strict about which object is
meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

TAGS = (("<think>", "</think>"), ("◁think▷", "◁/think▷"))
"""Of DeepSeek-R1, Qwen3 and their like; of Kimi-VL."""


def split_thinking(text: str) -> tuple[str, str]:
    """The reasoning in a reply, and the answer without it. A reply without reasoning stays as it is.

    The reasoning is in blocks at the beginning. A block that is not closed runs to the end of the reply: the
    token limit cut it off, and there is no answer. The first block need not be opened, since chat templates
    write its opening into the prompt.
    """
    for opening, closing in TAGS:
        thoughts, rest = [], text
        before, closed, after = text.partition(closing)
        if closed and opening not in before:
            thoughts, rest = [before], after
        while rest.lstrip().startswith(opening):
            thought, _, rest = rest.lstrip().removeprefix(opening).partition(closing)
            thoughts.append(thought)
        if thoughts:
            return "\n\n".join(thought.strip() for thought in thoughts).strip(), rest.strip()
    return "", text


MOST_CHARACTERS = 200_000
"""A longer reply is not searched for JSON, or one reply would hold up all others."""
MOST_SPANS = 1000
"""Of `{...}` in one reply, for the same reason."""
MOST_LEVELS = 50
"""Of lists and objects in each other. No answer needs more, and Python cannot compare, print or write values
that are nested some hundred times."""
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
"""A JSON string. An unclosed one runs to the end of the reply, which keeps the search linear in its
length."""
_TOKEN = re.compile(_STRING + r"|[{}]", re.DOTALL)
_TRAILING_COMMA = re.compile(f"({_STRING})" + r"|,(?=\s*[}\]])", re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_LATEX = re.compile(
    r"\\\\"  # a backslash as it should be written
    r"|(?P<damaged>(?:[\b\f]|\\(?:[bfr]|u000[8cC]))(?=[a-zA-Z])"
    r"|\\(?:t(?:imes|heta|ext(?:bf|it|rm|tt)?|au|anh?|op?|riangle|frac|ilde|herefore)(?![a-zA-Z])"
    r"|n(?:abla|eq|ot(?:in)?)(?![a-zA-Z])|nu(?=\s*[_^$=})\\])))"
)
"""LaTeX whose backslash is single in JSON: `\\frac` is read as form feed and "rac". Before a letter,
backspace, form feed and carriage return mean nothing else. A tab or a new line is taken for LaTeX before
what is the rest of a whole command and hardly begins a line of prose."""
_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]?m|i am) (?:(?:really|very|so) )?sorry|sorry,|i apologi[sz]e|(?:i['’]?m"
    r"|i am) (?:not able|unable)"
    r"|i (?:can['’]?t|cannot|can not|won['’]?t|will not)\b|i (?:must|have to) (?:decline|refuse)"
    r"|as an ai\b)",
    re.IGNORECASE,
)


def parse_json(text: str, prompt: str = "") -> dict[str, Any]:
    """The one JSON object of a reply to `prompt`.

    If the whole reply is an object, it is the result. Otherwise the reply must contain exactly one distinct
    object among its top-level `{...}` spans; code fences, prose and reasoning around it do not matter. Two
    different objects, a duplicate key, or a span with a colon that is not JSON (a broken or truncated object)
    are an error. So a verdict next to JSON echoed from the judged text may be unparsable, but the echo is
    never taken for the verdict.

    Raw control characters in strings and trailing commas are accepted. Half a surrogate pair becomes "?".
    Raises `ValueError` if there is no object, a broken one or more than one, one with LaTeX whose backslashes
    are single, or more than `MOST_CHARACTERS`, or if the object occurs in the prompt, escaped or not: a judge
    that quotes JSON from the answer and writes no verdict has given none. The message says which."""
    value, span = _find(text)
    whole = _squeezed(prompt)
    if any(_squeezed(words) in whole for words in (span, json.dumps(value, ensure_ascii=False))):
        raise ValueError("the JSON object is quoted from the text you were given; write your own")
    return value


def check_own_words(value: Any, schema: dict[str, Any]) -> None:
    """Weak models copy the schema they are given: "the next user turn" instead of a user turn.

    Raises `ValueError` if a string in `value` is, or begins with, a description in `schema`; says where, in
    names of the schema alone: the others are the reply's.
    """
    descriptions = [words for words in map(_words, _descriptions(schema)) if words]
    names = set(_property_names(schema))
    longest = 10 * max(map(len, descriptions), default=0)

    def check(value: Any, place: str) -> None:
        if isinstance(value, str):
            words = _words(value[:longest])
            if any(words == copied or words.startswith(f"{copied} ") for copied in descriptions):
                raise ValueError(f"{place or 'the answer'}: copied from the schema; write your own words")
        elif isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                name = key if isinstance(key, int) or key in names else "another key"
                check(inner, f"{place}.{name}".lstrip("."))

    check(value, "")


def _descriptions(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(text := schema.get("description"), str):
            yield text
        for inner in schema.values():
            yield from _descriptions(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _descriptions(inner)


def _property_names(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
        schema = [*schema.values()]
    if isinstance(schema, list):
        for inner in schema:
            yield from _property_names(inner)


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _find(text: str) -> tuple[dict[str, Any], str]:
    """The object, and the text it was parsed from."""
    # A reply that is an object as a whole may quote the tags of reasoning.
    for part in dict.fromkeys((text, split_thinking(text)[1])):
        if len(part) <= MOST_CHARACTERS and (whole := _load(part)) is not None:
            return whole, part
    text = part
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"more than {MOST_CHARACTERS:,} characters in it")
    objects: list[tuple[dict[str, Any], str]] = []
    for number, span in enumerate(_spans(text)):
        if number == MOST_SPANS:
            raise ValueError("more than one JSON object in it")
        value = _load(span)
        if value is not None:
            objects.append((value, span))
        elif ":" in span:
            raise ValueError("a broken JSON object in it")
    if not objects:
        raise ValueError("no JSON object in it")
    if any(other != objects[0][0] for other, _ in objects[1:]):
        raise ValueError("more than one JSON object in it")
    return objects[0]


def _squeezed(text: str) -> str:
    """`text` without white space and backslashes, so that layout does not hide an echo."""
    return "".join(text.split()).replace("\\", "")


def begins_like_refusal(text: str) -> bool:
    """Whether a reply that should have been JSON starts like a typical refusal."""
    return _REFUSAL.match(split_thinking(text)[1][:1000]) is not None


def _load(text: str) -> dict[str, Any] | None:
    """None if `text` is no JSON object. Raises `ValueError` if it is one whose LaTeX is damaged."""
    for form in (text, _TRAILING_COMMA.sub(lambda match: match[1] or "", text)):
        try:
            value = json.loads(form, strict=False, object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict) or not is_shallow(value):
            return None
        if any(match["damaged"] for match in _LATEX.finditer(text)):
            raise ValueError("a single backslash before a LaTeX command; double each backslash")
        if _SURROGATE.search(text):
            value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
        return dict(value)
    return None


def is_shallow(value: Any) -> bool:
    """Whether lists and objects are nested at most `MOST_LEVELS` deep."""
    level = [value]
    for _ in range(MOST_LEVELS):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner.extend(one.values())
            elif isinstance(one, list):
                inner.extend(one)
        if not inner:
            return True
        level = inner
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key stands twice")
    return table


def _spans(text: str) -> Iterator[str]:
    """Top-level `{...}` spans in order. An unclosed span runs to the end. Braces inside strings do not
    count."""
    position = 0
    while (start := text.find("{", position)) >= 0:
        depth, position = 0, len(text)
        for token in _TOKEN.finditer(text, start):
            depth += {"{": 1, "}": -1}.get(token[0], 0)
            if depth == 0:
                position = token.end()
                break
        yield text[start:position]
