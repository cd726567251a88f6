"""From a model's reply to a JSON object, tolerant of what models wrap around it and strict about which object
is meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_THINK = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
"""A JSON string; one that is never closed runs to the end, which keeps the search linear in the reply's
length."""
_TOKEN = re.compile(_STRING + r"|[{}]", re.DOTALL)
_TRAILING_COMMA = re.compile(f"({_STRING})" + r"|,(?=\s*[}\]])", re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]?m|i am) (?:(?:really|very|so) )?sorry|sorry,|i apologi[sz]e|(?:i['’]?m|i am) (?:not able|unable)"
    r"|i (?:can['’]?t|cannot|can not|won['’]?t|will not)\b|i (?:must|have to) (?:decline|refuse)|as an ai\b)",
    re.IGNORECASE,
)


def parse_json(text: str) -> dict[str, Any]:
    """The one JSON object of a reply.

    The rule: the whole reply, if it is an object; else the only object among its top-level `{...}` spans, so
    that code fences and prose around it do not matter. Two different objects, a key that stands twice in one,
    and a span with a colon that is no JSON (a broken object, or one cut off) make the reply ambiguous: a
    verdict that stands beside JSON echoed from the text it judges can become unparsable, but never gives way
    to the echo. Raw control characters in strings and trailing commas are forgiven; a leading `<think>` block
    is left out. Half a surrogate pair, which could be neither hashed, sent nor stored, becomes "?".

    Raises:
        ValueError: no object, a broken one, or more than one; the message says which.
    """
    return _find(text)[0]


def parse_own_json(text: str, sent: str) -> dict[str, Any]:
    """`parse_json` of a reply to `sent`, whose object must not stand word for word in what was sent, escaped
    or not.

    A judge that quotes JSON from the answer it judges, and writes no verdict, would otherwise have taken the
    answer's own.

    Raises:
        ValueError: as `parse_json`, or the object is an echo.
    """
    value, span = _find(text)
    if _squeezed(span) in _squeezed(sent):
        raise ValueError("the JSON object is quoted from the text you were given; write your own")
    return value


def _find(text: str) -> tuple[dict[str, Any], str]:
    """The object and the text it was read from."""
    text = _THINK.sub("", text, count=1)
    whole = _load(text)
    if whole is not None:
        return whole, text
    found: list[tuple[dict[str, Any], str]] = []
    for span in _spans(text):
        value = _load(span)
        if value is not None:
            found.append((value, span))
        elif ":" in span:
            raise ValueError("a broken JSON object in it")
    if not found:
        raise ValueError("no JSON object in it")
    if any(other != found[0][0] for other, _ in found[1:]):
        raise ValueError("more than one JSON object in it")
    return found[0]


def _squeezed(text: str) -> str:
    """Without white space and escapes, so that layout does not hide an echo."""
    return "".join(text.split()).replace("\\", "")


def begins_like_refusal(text: str) -> bool:
    """Whether a reply that should have been JSON starts with a refusal's usual words."""
    return _REFUSAL.match(_THINK.sub("", text, count=1)) is not None


def _load(text: str) -> dict[str, Any] | None:
    for form in (text, _TRAILING_COMMA.sub(lambda match: match[1] or "", text)):
        try:
            value = json.loads(form, strict=False, object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict):
            return None
        return (
            dict(json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace")))
            if _SURROGATE.search(text)
            else value
        )
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key stands twice")
    return table


def _spans(text: str) -> Iterator[str]:
    """Top-level `{...}` spans in order; one that is never closed runs to the end. Braces inside strings do
    not count."""
    position = 0
    while (start := text.find("{", position)) >= 0:
        depth, position = 0, len(text)
        for token in _TOKEN.finditer(text, start):
            depth += {"{": 1, "}": -1}.get(token[0], 0)
            if depth == 0:
                position = token.end()
                break
        yield text[start:position]
