"""Made-up answers: a value that an answer's JSON schema allows, with the texts and numbers of its `Values`.
The stub plays a whole run with them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Protocol

_WORDS = (
    "about above after again along among area around begin below between bottle bridge brown carry chair"
    " circle clear close colour corner cover describe door edge engine every example field first floor"
    " following front garden glass green ground handle house inside kitchen label ladder large later letter"
    " light little machine material metal middle morning nothing number object often other outside paper"
    " people picture place please point question reason right river second should shown simple small"
    " something stand station step still stone street surface table their there these thing though through"
    " together tools tower under until upper usually water wheel where which while window without wooden"
    " would write yellow"
)
VOCABULARY = _WORDS.split()
"""Enough words that the duplicate check finds no two texts alike."""


class Values(Protocol):
    """What goes into the fields of an answer, by the field's name and schema."""

    def text(self, field: str) -> str: ...

    def number(self, field: str, schema: Mapping[str, Any]) -> int: ...

    def flag(self, field: str) -> bool: ...

    def entries(self, field: str, schema: Mapping[str, Any]) -> int: ...


def fill(
    schema: Mapping[str, Any], values: Values, field: str = "", defined: Mapping[str, Any] | None = None
) -> Any:
    """A value that the JSON schema allows; `defined` are its `$defs`."""
    defined = schema.get("$defs", {}) if defined is None else defined
    if "$ref" in schema:
        schema = defined[schema["$ref"].rpartition("/")[2]]
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            parts = schema.get("properties", {}).items()
            return {name: fill(part, values, name, defined) for name, part in parts}
        case "array":
            count = values.entries(field, schema)
            return [fill(schema["items"], values, field, defined) for _ in range(count)]
        case "integer" | "number":
            return values.number(field, schema)
        case "boolean":
            return values.flag(field)
    return values.text(field)


def words(rng: random.Random, count: int) -> str:
    """Random words."""
    return " ".join(rng.choice(VOCABULARY) for _ in range(count))
