"""Compares configs by the kinds of their keys (`config/kinds.py`): whether two are of one run, and what of a
config says what a run is.

Configs are compared as they stand in YAML, key by key along the model, so that one of an earlier version can
be compared too. A key that the model does not know is of kind `run`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from math import isclose
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from safer_steer.config import Config
from safer_steer.config.kinds import KeyKind, came_later, default_of, kind_of, section_of
from safer_steer.errors import shortened

EVERY_KIND = frozenset(KeyKind)
OF_RUN = frozenset({KeyKind.RUN})
READ_BY = {
    **{"seeds": "seeds", "assembly": "assemble", "bootstrap": "bootstrap", "bootstrap.sft": "sft"},
    **{"rl": "rl", "rl.rollouts": "", "bench": "bench"},
}
"""The one stage that reads a section; "" for one that several read."""


def settings_of(
    settings: Any,
    kinds: Collection[KeyKind] = OF_RUN,
    model: type[BaseModel] = Config,
    filled: bool = False,
) -> Any:
    """A section's keys of these kinds, as plain values. A key marked `LATER` is left out at its default or,
    if `filled`, added with it. `settings` is the section as YAML has it, `model` what the section is; what is
    no section comes back as it is."""
    if not isinstance(settings, Mapping):
        return settings
    later = {key: _default(field) for key, field in model.model_fields.items() if came_later(field)}
    values = {}
    for key, value in ({**later, **settings} if filled else settings).items():
        field = model.model_fields.get(key)
        if field is None:
            values[key] = value
        elif kind_of(field) in kinds:
            within = partial(_within, kinds=kinds, annotation=field.annotation, filled=filled)
            if filled or key not in later or within(value) != within(later[key]):
                values[key] = within(value)
    return values


def _default(field: FieldInfo) -> Any:
    """As YAML has it."""
    default = default_of(field)
    return default.model_dump(mode="json") if isinstance(default, BaseModel) else default


def _within(value: Any, kinds: Collection[KeyKind], annotation: Any, filled: bool) -> Any:
    """`settings_of` for what a key holds: a section, a list of them, sections by name, or plain values."""
    section = section_of(annotation)
    if section is None:
        return value
    if isinstance(value, list):
        return [settings_of(entry, kinds, section, filled) for entry in value]
    if isinstance(value, Mapping) and getattr(annotation, "__origin__", None) is dict:
        return {name: _within(entry, kinds, section, filled) for name, entry in value.items()}
    return settings_of(value, kinds, section, filled)


def another_run(there: Any, here: Any) -> str | None:
    """The first key that makes two configs those of different runs, with both values: `seed (0 there, 5
    here)`. None if they are of one run, and also if they differ in keys that may change."""
    return first_difference(settings_of(there, filled=True), settings_of(here, filled=True))


def keep_finished(
    there: Mapping[str, Any],
    here: dict[str, Any],
    finished: Callable[[str], bool],
    model: type[BaseModel] = Config,
    above: str = "",
    stage: str = "",
) -> Iterator[tuple[str, str]]:
    """Each key that a finished stage alone reads and in which `here` differs from `there`, the config of the
    same run, with its stage. `here` gets its value of `there`, and so says what was done. The last three
    arguments are of the section that is compared."""
    for name, field in model.model_fields.items():
        key = f"{above}.{name}".lstrip(".")
        reads, section = READ_BY.get(key, stage), section_of(field.annotation)
        before, now = there.get(name, _default(field)), here.get(name)
        if kind_of(field) is not KeyKind.RUN:
            if reads and finished(reads) and not _equal(before, now):
                here[name] = before
                yield key, reads
        elif section and isinstance(before, Mapping) and isinstance(now, dict):
            yield from keep_finished(before, now, finished, section, key, reads)


def first_difference(there: Any, here: Any, key: str = "") -> str | None:
    """The first key in which plain values differ, with both; `key` is what they stand under."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in [*here, *(name for name in there if name not in here)]:
            below = f"{key}.{name}".lstrip(".")
            if difference := first_difference(there.get(name), here.get(name), below):
                return difference
        return None
    if _sections(there) and _sections(here):
        for place in range(max(len(there), len(here))):
            one, other = (entries[place] if place < len(entries) else None for entries in (there, here))
            if difference := first_difference(one, other, f"{key}[{place}]"):
                return difference
        return None
    if _equal(there, here):
        return None
    if there is None and isinstance(here, dict | list):
        return f"{key} (not there, but here)"
    if here is None and isinstance(there, dict | list):
        return f"{key} (there, but not here)"
    return f"{key} ({_excerpt(there)} there, {_excerpt(here)} here)"


def _equal(there: Any, here: Any) -> bool:
    """Whether plain values are the same, numbers up to rounding, which may differ by a library's
    version."""
    if isinstance(there, list) and isinstance(here, list):
        return len(there) == len(here) and all(map(_equal, there, here))
    if isinstance(there, float) and isinstance(here, float):
        return isclose(there, here, rel_tol=1e-9, abs_tol=1e-12)
    return bool(there == here)


def _sections(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _excerpt(value: Any) -> str:
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
