"""Compares configs by the kinds of their keys (`config/kinds.py`): whether two are of one run, and what of a
config says what a run is.

Configs are compared as they stand in YAML, key by key along the model, so that one of an earlier version can
be compared too. A key that the model does not know is of kind `run`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from safer_steer.config import Config
from safer_steer.config.kinds import KeyKind, came_later, default_of, kind_of, section_of
from safer_steer.errors import shortened

EVERY_KIND = frozenset(KeyKind)
OF_RUN = frozenset({KeyKind.RUN})


def settings_of(settings: Any, kinds: Collection[KeyKind] = OF_RUN, model: type[BaseModel] = Config) -> Any:
    """A section's keys of these kinds, as plain values; a key marked `LATER` is left out at its default.
    `settings` is the section as YAML has it, `model` what the section is; what is no section comes back as it
    is."""
    if not isinstance(settings, Mapping):
        return settings
    chosen = {}
    for key, value in settings.items():
        field = model.model_fields.get(key)
        if field and (kind_of(field) not in kinds or (came_later(field) and value == default_of(field))):
            continue
        chosen[key] = _within(value, kinds, field.annotation) if field else value
    return chosen


def _within(value: Any, kinds: Collection[KeyKind], annotation: Any) -> Any:
    """`settings_of` for what a key holds: a section, a list of them, sections by name, or plain values."""
    section = section_of(annotation)
    if section is None:
        return value
    if isinstance(value, list):
        return [settings_of(entry, kinds, section) for entry in value]
    if isinstance(value, Mapping) and getattr(annotation, "__origin__", None) is dict:
        return {name: _within(entry, kinds, section) for name, entry in value.items()}
    return settings_of(value, kinds, section)


def another_run(there: Any, here: Any) -> str | None:
    """The first key that makes two configs those of different runs, with both values: `seed (0 there, 5
    here)`. None if they are of one run, and also if they differ in keys that may change."""
    return first_difference(settings_of(there), settings_of(here))


def first_difference(there: Any, here: Any, key: str = "") -> str | None:
    """The first key in which plain values differ, with both; `key` is what they stand under."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in [*here, *(name for name in there if name not in here)]:
            below = f"{key}.{name}".lstrip(".")
            if said := first_difference(there.get(name), here.get(name), below):
                return said
        return None
    if _sections(there) and _sections(here):
        for place in range(max(len(there), len(here))):
            one, other = (entries[place] if place < len(entries) else None for entries in (there, here))
            if said := first_difference(one, other, f"{key}[{place}]"):
                return said
        return None
    if there == here:
        return None
    if there is None and isinstance(here, dict | list):
        return f"{key} (not there, but here)"
    if here is None and isinstance(there, dict | list):
        return f"{key} (there, but not here)"
    return f"{key} ({_shown(there)} there, {_shown(here)} here)"


def _sections(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _shown(value: Any) -> str:
    return shortened(
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 80
    )


def all_stubs(settings: Any) -> bool:
    """Whether a config, as YAML has it, has made-up answers in every role, as with --stub."""
    roles = settings.get("roles") if isinstance(settings, Mapping) else None
    return (
        bool(roles)
        and isinstance(roles, Mapping)
        and all(isinstance(role, Mapping) and role.get("model") == "stub" for role in roles.values())
    )
