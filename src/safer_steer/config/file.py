"""Reads and writes the config's YAML file. Every error is one line with the file and the key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from safer_steer.config import Config, Role, RoleName
from safer_steer.config.keys import absolute, make_absolute, set_keys
from safer_steer.config.kinds import section_of
from safer_steer.config.roles import ONE, SEVERAL
from safer_steer.errors import UserError
from safer_steer.files.store import TEXT

STUB_STUDENT = {"model": "sandbox", "dtype": "float32", "device": "cpu", "chat_template": None}
STUB_AT_MOST = {"max_turn_tokens": 48, "max_length": 2048, "max_pixels": 256 * 256}
"""What suits the shipped student."""


def load_config(
    path: Path,
    limit: int | None = None,
    stub: bool = False,
    keys: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    where: object = "--set",
) -> Config:
    """Read a YAML config. Relative paths in it are relative to the file; in the result they are absolute.
    `limit` overrides the config's, and so do `keys` such as `rl.tcsr` (`set_keys`). With `stub` every role
    gives made-up answers, and the shipped student stands in for the config's.

    `base: FILE`, or a list of files, names configs that it begins from: what the file itself says goes over
    what they say, section by section, and a list takes the place of a list.

    Args:
        folder: what relative paths in `keys` are relative to; None for the working folder.
        where: what errors in `keys` begin with.

    Raises:
        UserError: names file (or `where`) and key.
    """
    path = Path(os.path.abspath(path))
    data = _with_bases(path) | ({} if limit is None else {"limit": limit})
    whole = deepcopy(data)
    set_keys(whole, keys or {}, where, folder)
    try:
        config = Config.model_validate(whole)
        return with_stubs(config) if stub else config
    except ValidationError as error:
        complaint = in_words(error)
        raise UserError(f"{path if complaint == _complaint(data) else where}: {complaint}") from None


def _complaint(data: Mapping[str, Any]) -> str:
    """What is wrong with the keys of a config; "" for nothing."""
    try:
        Config.model_validate(data)
    except ValidationError as error:
        return in_words(error)
    return ""


def config_in(run: Path, what: str = "a run") -> Config:
    """The config of a run's folder. Raises `UserError` if there is none; `what` is what was wanted."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run}: no run in it (no config.yaml); give the folder of {what}")
    return load_config(run / "config.yaml")


def _with_bases(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a config's file, with absolute paths, over those of the files in its `base`, one file or
    several in this order. `above` are the files that it is a base of."""
    data = read_yaml(path)
    make_absolute(data, path.parent)
    together: dict[str, Any] = {}
    for name, base in _bases(data.pop("base", None), path).items():
        if base in (path, *above):
            raise UserError(f"{path}: base: {name} begins from this file in turn; leave one of the two out")
        parent = _with_bases(base, (*above, path))
        if complaint := _complaint(parent):
            raise UserError(f"{base}: {complaint}")
        together = _merged(together, parent)
    return _merged(together, data)


def _bases(names: Any, path: Path) -> dict[str, Path]:
    """The files that `base` in the config at `path` names."""
    bases: dict[str, Path] = {}
    for name in names if isinstance(names, list) else [names] * (names is not None):
        if not isinstance(name, str):
            raise UserError(f"{path}: base: must be a file or a list of files, not {_short(name)}")
        bases[name] = Path(absolute(name, path.parent))
    return bases


def as_written(path: Path) -> list[dict[str, Any]]:
    """What the config's file says, with the paths as they stand there, and what the files in its `base` say.
    The file must be one that `load_config` takes."""
    data = read_yaml(path)
    parts = [data]
    for base in _bases(data.get("base"), path).values():
        parts += as_written(base)
    return parts


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections key by key, all else as it stands above."""
    both = {
        key: _merged(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **both}


MOST_CHARACTERS = 100_000
"""So long a file may be with every alias written out."""


class BoundedLoader(yaml.SafeLoader):
    """Refuses aliases that make a short file endless, so that nothing that looks through it returns."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._length, self._length_of = 0, dict[int, int]()

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        before, is_alias = self._length, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias:
            self._length += self._length_of.get(id(node), MOST_CHARACTERS)
            if self._length > MOST_CHARACTERS:
                raise yaml.YAMLError("its aliases stand for too much; write out what they stand for")
        else:
            self._length += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
            self._length_of[id(node)] = self._length - before
        return node


class _EachKeyOnce(BoundedLoader):
    """Refuses a key that occurs twice in one section, where YAML would drop the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                first = lines.setdefault(key.value, key.start_mark.line + 1)
                if first <= key.start_mark.line:
                    both = f"in lines {first} and {key.start_mark.line + 1}"
                    raise yaml.YAMLError(f"{key.value} occurs twice, {both}; keep one")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a section of keys. Raises `UserError` if it is missing, empty or no YAML, or a
    key of it occurs twice."""
    if not path.is_file():
        if (path / "config.yaml").is_file():
            raise UserError(f"{path}: is a folder; give its config: {path / 'config.yaml'}")
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give a YAML file")
        raise UserError(f"{path}: no such config file; `safer-steer init DIR` writes one to start from")
    try:
        data: Any = yaml.load(path.read_text(encoding=TEXT), _EachKeyOnce)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: no valid YAML: {_where_broken(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}") from None
    except (ValueError, RecursionError) as error:  # what looks like a date or a number; brackets without end
        raise UserError(f"{path}: no valid YAML: {error}; put that value in quotes") from None
    if not data:
        raise UserError(
            f"{path}: is empty; `safer-steer init DIR` writes a config to start from;"
            " `name: sandbox` alone runs the sandbox"
        )
    if not isinstance(data, dict):
        raise UserError(f"{path}: must be a section of keys, not {_short(data)}")
    return data


def _where_broken(error: yaml.YAMLError) -> str:
    """Where a file stops being YAML, and what to do."""
    at, begun = (getattr(error, name, None) for name in ("problem_mark", "context_mark"))
    if at is None:
        return " ".join(str(error).split())
    since = f", in what begins in line {begun.line + 1}" if begun and begun.line < at.line else ""
    return (
        f"line {at.line + 1}, column {at.column + 1}{since}: cannot be read; close brackets and quotes,"
        " indent with spaces, and put a value with a colon or another sign of YAML in it into quotes"
    )


def with_stubs(config: Config) -> Config:
    """The config for a dry walk: made-up answers in every role, and the shipped student on the CPU."""
    student = config.student
    most = {key: min(getattr(student, key), number) for key, number in STUB_AT_MOST.items()}
    rl = config.rl
    longest = min(rl.max_completion_tokens, STUB_AT_MOST["max_length"])
    rank = student.lora_rank if rl.algorithm == "cotrain" else 0  # which trains adapters
    return Config.model_validate(
        config.model_dump()
        | {
            "roles": dict.fromkeys(get_args(RoleName), Role(model="stub")),
            "student": student.model_dump() | STUB_STUDENT | most | {"lora_rank": rank},
            "rl": rl.model_dump() | {"max_completion_tokens": longest},
            "gates": {},
        }
    )


def dump_config(config: Config | Mapping[str, Any]) -> str:
    """The resolved config, or its values, as YAML, every key written out."""
    values = config.model_dump(mode="json") if isinstance(config, Config) else config
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


# Errors -------------------------------------------------------------------------

WORDS = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number, not {given}"),
    **dict.fromkeys(("float_parsing", "float_type"), "must be a number, not {given}"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false, not {given}"),
    "finite_number": "must be a finite number, not {given}",
    "string_type": "must be text, not {given}; put it in quotes",
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list, not {given}"),
    **dict.fromkeys(("dict_type", "model_type"), "must be a section of keys, not {given}"),
    **dict.fromkeys(("literal_error", "enum"), "must be {expected}, not {given}"),
    "greater_than_equal": "must be at least {ge}, not {number:.60}",
    "less_than_equal": "must be at most {le}, not {number:.60}",
    "greater_than": "must be more than {gt}, not {number:.60}",
    "less_than": "must be less than {lt}, not {number:.60}",
    "missing": "is missing",
    "too_short": "needs at least {min_length} entry",
}
"""What is wrong with a value, by pydantic's name of the error; its own words for any other."""


def in_words(error: ValidationError, model: type[BaseModel] = Config) -> str:
    """The first error of a config, as "key: what is wrong"."""
    first = error.errors()[0]
    place = tuple(part for part in first["loc"] if part not in (ONE, SEVERAL))
    kind = first["type"]
    if place[-1:] == ("[key]",):
        place, kind = place[:-1], "extra_forbidden"
    if place[-1:] == ("bool",):  # one of the alternatives of `pictures`
        return (
            f"{'.'.join(map(str, place[:-1]))}: must be true, false or caption, not {_short(first['input'])}"
        )
    if kind == "extra_forbidden":
        what = _unknown(str(place[-1]), _keys_beside(place, model))
    elif kind in WORDS:
        what = WORDS[kind].format(
            given=_short(first["input"]), number=str(first["input"]), **first.get("ctx", {})
        )
    else:
        what = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, place)) or 'config'}: {what}"


def _short(value: Any) -> str:
    return "null" if value is None else f"{value!r:.60}"


def _unknown(key: str, keys: list[str]) -> str:
    near = ["base"] if key == "extends" else get_close_matches(key, keys, 1)
    return f"unknown key; {f'did you mean `{near[0]}`?' if near else '`safer-steer config` lists the keys'}"


def _keys_beside(place: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """The keys that are allowed where the last key of `place` stands."""
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        inner = field and section_of(field.annotation)
        if field and getattr(field.annotation, "__origin__", None) is dict and len(place) == 2:
            return list(get_args(get_args(field.annotation)[0]))
        model = inner or model
    return list(model.model_fields)
