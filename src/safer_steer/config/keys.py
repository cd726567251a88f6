"""The keys of the config: their types, the paths among them, and single ones that are set."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel

from safer_steer.config import Config
from safer_steer.config.bench import EMBEDDED, STEER
from safer_steer.config.kinds import default_of, kind_of, section_of
from safer_steer.errors import UserError

NOT_FILES = (*EMBEDDED, STEER)
"""Entries of `bench.suites` and `bench.capability` that are names and no files."""


def describe(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, str, str, str]]:
    """Key, type, default, kind and description of every field, in the file's order; `<role>`, `<gate>`
    and `[]` stand for any role, any gate and any entry of a list."""
    for name, field in model.model_fields.items():
        key = prefix + name
        inner = section_of(field.annotation)
        if inner is None:
            yield (
                key,
                _type_name(field.annotation),
                json.dumps(default_of(field)),
                kind_of(field).value,
                " ".join((field.description or "").split()),
            )
        else:
            origin, between = getattr(field.annotation, "__origin__", None), "."
            if origin is list:
                between = "[]."
            elif origin is dict:
                between = f".<{name.removesuffix('s')}>."
            yield from describe(inner, key + between)


def _type_name(annotation: Any) -> str:
    """As a reader of YAML would put it: choices by value, no module names."""
    origin, inside = getattr(annotation, "__origin__", None), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, inside))
    if origin in (list, tuple):
        return f"{origin.__name__} of {_type_name(inside[0])}"
    if origin is dict:
        return f"dict of {_type_name(inside[1])}"
    if inside:
        return " | ".join("null" if part is type(None) else _type_name(part) for part in inside)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(str(member.value) for member in annotation)
    return getattr(annotation, "__name__", str(annotation))


def absolute(path: str, folder: Path) -> str:
    """A path that is relative to `folder`, as an absolute path. `~` is the home folder."""
    return os.path.normpath(folder / os.path.expanduser(path))


def absolute_suites(suites: Iterable[str], folder: Path) -> list[str]:
    """Entries of `bench.suites` or `bench.capability`: files as absolute paths, names unchanged."""
    return [suite if suite in NOT_FILES else absolute(suite, folder) for suite in suites]


PATHS = (
    *("student.model", "student.chat_template", "seeds.sources.path", "seeds.sources.images"),
    *("seeds.scripts", "rl.cotrain.attacker", "rl.cotrain.student", "bench.suites", "bench.capability"),
    *("bench.adaptive.intents", "bench.adaptive.trained"),
)
"""The keys whose values are paths, or lists of them."""


def make_absolute(data: dict[str, Any], folder: Path) -> None:
    """Make the paths in the keys of a config, which are relative to this folder, absolute."""

    def placed(key: str, path: Any) -> Any:
        if not isinstance(path, str) or not path:
            return path
        if key in ("bench.suites", "bench.capability"):
            [path] = absolute_suites([path], folder)
            return path
        is_file = path.startswith((".", "/", "~")) or (path != "sandbox" and (folder / path).is_dir())
        return absolute(path, folder) if key != "student.model" or is_file else path

    for key in PATHS:
        *sections, name = key.split(".")
        for section in _sections(data, sections):
            value = section.get(name)
            if isinstance(value, list):
                section[name] = [placed(key, path) for path in value]
            elif isinstance(value, str):
                section[name] = placed(key, value)


def _sections(data: Any, names: list[str]) -> Iterator[dict[str, Any]]:
    """The sections of this name, of which a list may have several."""
    for one in data if isinstance(data, list) else [data]:
        if isinstance(one, dict):
            yield from _sections(one.get(names[0]), names[1:]) if names else [one]


def read_keys(entries: Iterable[str]) -> dict[str, Any]:
    """The keys and values of entries `KEY=VALUE`. A single value is the text after the `=`, in which numbers
    and truth values are read when the config is; or null, if it is "null". A list has commas between its
    entries, or is YAML in brackets; what has keys of its own is YAML. Of two entries with one key the later
    counts.

    Raises:
        UserError: an entry has no `=`, or is no text.
    """
    keys: dict[str, Any] = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        if not equals:
            raise UserError(f"--set {entry}: give KEY=VALUE, for instance bench.dialogues=40")
        if entry != entry.encode(errors="ignore").decode():
            raise UserError(f"--set {key}: its value is not valid UTF-8")
        keys.pop(key, None)
        keys[key] = _read(text, _type_of(key))
    return keys


def _type_of(key: str) -> str:
    """The type of a key as `describe` has it; "" for a section, or an unknown key."""
    above = key.rpartition(".")[0]
    for name, type, *_ in describe():
        pattern = re.sub(r"<\w+>", "[^.]+", name.replace("[]", ""))
        if re.fullmatch(pattern, key):
            return type
        if type == "dict of str" and re.fullmatch(pattern, above):
            return "str"
    return ""


def _read(text: str, type: str) -> Any:
    if type.startswith(("list of", "tuple of")) and not text.startswith("["):
        return [] if text in ("", "null") else [part.strip() for part in text.split(",")]
    if type and not type.startswith(("list of", "tuple of", "dict of")):
        return None if text == "null" else text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError):
        return text


def set_keys(
    config: dict[str, Any], keys: Mapping[str, Any], where: object, folder: Path | None = None
) -> None:
    """Set keys in the sections of a config. `*` stands for every section there, as in `roles.*.timeout_s`.
    In a list of sections, as of several judges, each gets the key. Relative paths among the values are
    relative to `folder`, or to the working folder.

    Raises:
        UserError: a value is a whole section that is there, whose other keys would be lost, or a key is not
            in a section.
    """
    defaults = Config().model_dump(mode="json")
    for key, value in keys.items():
        names = key.split(".")
        wrapped: Any = {names[-1]: value}
        for name in reversed(names[:-1]):
            wrapped = {name: wrapped}
        make_absolute(wrapped, folder or Path.cwd())
        default: Any = defaults
        for name in names:
            wrapped, default = wrapped[name], default.get(name) if isinstance(default, dict) else None
        if isinstance(default, dict) and isinstance(value, dict):
            raise UserError(_is_a_section(f"{where}: {key}", value))
        _set(config, names, wrapped, f"{where}: {key}", defaults)


def _set(section: dict[str, Any], names: list[str], value: Any, where: str, default: Any) -> None:
    """`default`: of the section."""
    name, *below = names
    if not below:
        if isinstance(value, dict) and any(_sections(section.get(name), [])):
            raise UserError(_is_a_section(where, value))
        section[name] = value
        return
    default = default.get(name) if isinstance(default, dict) else None
    if name != "*" and section.get(name) is None:
        section[name] = deepcopy(default) if isinstance(default, list) else {}
    parts = [*section.values()] if name == "*" else [section[name]]
    inner = [one for part in parts for one in (part if isinstance(part, list) else [part])]
    if not inner or not all(isinstance(one, dict) for one in inner):
        raise UserError(f"{where}: {name} is no section of the config")
    for one in inner:
        _set(one, below, value, where, default)


def _is_a_section(where: str, value: dict[str, Any]) -> str:
    key = where.rpartition(" ")[2]
    return f"{where} is a section of the config; write {key}.{next(iter(value), 'KEY')}"
