"""Reads and writes the config's YAML file, and lists its keys. Every error is one line with the file and the
key."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ValidationError

from safer_steer.config import Config, Role, RoleName
from safer_steer.config.bench import EMBEDDED, STEER
from safer_steer.config.kinds import default_of, kind_of, section_of
from safer_steer.config.roles import ONE, SEVERAL
from safer_steer.errors import UserError
from safer_steer.files.store import TEXT

NOT_FILES = (*EMBEDDED, STEER)
"""Entries of `bench.suites` and `bench.capability` that are names and no files."""
STUB_STUDENT = {
    "model": "sandbox",
    "dtype": "float32",
    "device": "cpu",
    "chat_template": None,
    "lora_rank": 0,
}
STUB_AT_MOST = {"max_turn_tokens": 48, "max_length": 2048, "max_pixels": 256 * 256}
"""What suits the shipped student."""


def load_config(
    path: Path, limit: int | None = None, stub: bool = False, keys: Mapping[str, Any] | None = None
) -> Config:
    """Read a YAML config. Relative paths in it are relative to the file; in the result they are absolute.
    `limit` overrides the config's, and so do `keys` (`with_keys`), whose paths are relative to the working
    folder. With `stub` every role gives made-up answers, and the shipped student stands in for the config's.

    `base: FILE`, or a list of files, names configs that it begins from: what the file itself says goes over
    what they say, section by section, and a list takes the place of a list. Raises `UserError` that names
    file and key."""
    path = Path(os.path.abspath(path))
    data = _with_bases(path)
    try:
        config = Config.model_validate(data if limit is None else data | {"limit": limit})
        make_absolute(config, path.parent)
        if keys:
            config = with_keys(config, keys, Path.cwd(), "--set")
        return with_stubs(config) if stub else config
    except ValidationError as error:
        raise UserError(f"{path}: {in_words(error)}") from None


def config_in(run: Path, what: str = "a run") -> Config:
    """The config of a run's folder. Raises `UserError` if there is none; `what` is what was wanted."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run}: no run in it (no config.yaml); give the folder of {what}")
    return load_config(run / "config.yaml")


def _with_bases(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a config's file over those of the files in its `base`, one file or several in this order.
    `above` are the files that it is a base of."""
    data = read_yaml(path)
    together: dict[str, Any] = {}
    for name, base in _bases(data.pop("base", None), path).items():
        if base in (path, *above):
            raise UserError(f"{path}: base: {name} begins from this file in turn; leave one of the two out")
        try:
            parent = Config.model_validate(_with_bases(base, (*above, path)))
        except ValidationError as error:
            raise UserError(f"{base}: {in_words(error)}") from None
        make_absolute(parent, base.parent)
        together = _merged(together, parent.model_dump(mode="json", exclude_unset=True))
    return _merged(together, data)


def _bases(names: Any, path: Path) -> dict[str, Path]:
    """The files that `base` in the config at `path` names."""
    bases: dict[str, Path] = {}
    for name in [names] if isinstance(names, str) else names or ():
        if not isinstance(name, str):
            raise UserError(f"{path}: base: must be a file or a list of files, not {_shown(name)}")
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


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a section of keys. Raises `UserError` if it is missing, empty or no YAML."""
    if not path.is_file():
        if (path / "config.yaml").is_file():
            raise UserError(f"{path}: is a folder; give its config: {path / 'config.yaml'}")
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give a YAML file")
        raise UserError(f"{path}: no such config file; `safer-steer init DIR` writes one to start from")
    try:
        data: Any = yaml.safe_load(path.read_text(encoding=TEXT))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}") from None
    if not data:
        raise UserError(
            f"{path}: is empty; `safer-steer init DIR` writes a config to start from;"
            " `name: sandbox` alone runs the sandbox"
        )
    if not isinstance(data, dict):
        raise UserError(f"{path}: must be a section of keys, not {_shown(data)}")
    return data


def absolute(path: str, folder: Path) -> str:
    """A path that is relative to `folder`, as an absolute path. `~` is the home folder."""
    return os.path.normpath(folder / os.path.expanduser(path))


def absolute_suites(suites: Iterable[str], folder: Path) -> list[str]:
    """Entries of `bench.suites` or `bench.capability`: files as absolute paths, names unchanged."""
    return [suite if suite in NOT_FILES else absolute(suite, folder) for suite in suites]


def make_absolute(config: Config, folder: Path) -> None:
    """Make the relative paths of a config, read from this folder, absolute. What the file did not set stays
    unset."""

    def change(owner: BaseModel, key: str, value: Any) -> None:
        if value != getattr(owner, key):
            setattr(owner, key, value)

    def change_path(owner: BaseModel, key: str) -> None:
        change(owner, key, (path := getattr(owner, key)) and absolute(path, folder))

    for source in config.seeds.sources:
        change_path(source, "path")
        change_path(source, "images")
    change_path(config.seeds, "scripts")
    model = config.student.model
    if model.startswith((".", "/", "~")) or (model != "sandbox" and (folder / model).is_dir()):
        change_path(config.student, "model")
    change_path(config.student, "chat_template")
    change_path(config.rl.cotrain, "attacker")
    change_path(config.rl.cotrain, "student")
    for key in ("suites", "capability"):
        change(config.bench, key, absolute_suites(getattr(config.bench, key), folder))
    if adaptive := config.bench.adaptive:
        change_path(adaptive, "intents")
        change(adaptive, "trained", [absolute(path, folder) for path in adaptive.trained])


def read_keys(entries: Iterable[str]) -> dict[str, Any]:
    """The keys and values of entries `KEY=VALUE`. Values are YAML; but text stands for itself where a key
    takes text, and texts between commas where it takes several.

    Raises:
        UserError: an entry has no `=`.
    """
    types = {key: type for key, type, *_ in describe()}
    keys: dict[str, Any] = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        if not equals:
            raise UserError(f"--set {entry}: give KEY=VALUE, for instance bench.dialogues=40")
        type = types.get(re.sub(r"^roles\.\w+", "roles.<role>", key), "")
        if type in ("str", "str | null") and text != "null":
            keys[key] = text
        elif type.startswith("list") and not text.startswith("["):
            keys[key] = text.split(",")
        else:
            keys[key] = _yaml(text)
    return keys


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text


def with_keys(config: Config, keys: Mapping[str, Any], folder: Path, where: object) -> Config:
    """The config with keys such as `rl.tcsr` set. Relative paths among the values are relative to `folder`.

    Raises:
        UserError: a key is unknown or a value wrong, or `set_keys` refuses it; begins with `where`.
    """
    data = config.model_dump(mode="json", exclude_unset=True)
    set_keys(data, keys, where)
    try:
        whole = Config.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: {in_words(error)}") from None
    make_absolute(whole, folder)
    return whole


def set_keys(config: dict[str, Any], keys: Mapping[str, Any], where: object) -> None:
    """Set keys in the sections of a config. `*` stands for every section there, as in `roles.*.timeout_s`.
    In a list of sections, as of several judges, each gets the key.

    Raises:
        UserError: a value is a whole section, whose other keys would get their defaults, or a key is not in
            a section.
    """
    defaults = Config().model_dump()
    for key, value in keys.items():
        default: Any = defaults
        for name in key.split("."):
            default = default.get(name) if isinstance(default, dict) else None
        if isinstance(default, dict) and isinstance(value, dict):
            raise UserError(
                f"{where}: {key} is a section of the config; write {key}.{next(iter(value), 'KEY')}"
            )
        _set(config, key.split("."), value, f"{where}: {key}")


def _set(section: dict[str, Any], names: list[str], value: Any, where: str) -> None:
    name, *below = names
    if not below:
        section[name] = value
        return
    if name != "*" and section.get(name) is None:
        section[name] = {}
    for inner in ([*section.values()] or [None]) if name == "*" else [section[name]]:
        for one in inner if isinstance(inner, list) else [inner]:
            if not isinstance(one, dict):
                raise UserError(f"{where}: {name} is no section of the config")
            _set(one, below, value, where)


def with_stubs(config: Config) -> Config:
    """The config for a dry walk: made-up answers in every role, and the shipped student on the CPU."""
    student = config.student
    most = {key: min(getattr(student, key), number) for key, number in STUB_AT_MOST.items()}
    rl = config.rl
    longest = min(rl.max_completion_tokens, STUB_AT_MOST["max_length"])
    return Config.model_validate(
        config.model_dump()
        | {
            "roles": dict.fromkeys(get_args(RoleName), Role(model="stub")),
            "student": student.model_dump() | STUB_STUDENT | most,
            "rl": rl.model_dump() | {"max_completion_tokens": longest},
            "gates": {},
        }
    )


def dump_config(config: Config) -> str:
    """The resolved config as YAML, every key written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


# Errors -------------------------------------------------------------------------

WORDS = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number, not {given}"),
    **dict.fromkeys(("float_parsing", "float_type"), "must be a number, not {given}"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false, not {given}"),
    "string_type": "must be text, not {given}; put it in quotes",
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list, not {given}"),
    **dict.fromkeys(("dict_type", "model_type"), "must be a section of keys, not {given}"),
    **dict.fromkeys(("literal_error", "enum"), "must be {expected}, not {given}"),
    "greater_than_equal": "must be at least {ge}, not {given}",
    "less_than_equal": "must be at most {le}, not {given}",
    "greater_than": "must be more than {gt}, not {given}",
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
    if kind == "extra_forbidden":
        what = _unknown(str(place[-1]), _keys_beside(place, model))
    elif kind in WORDS:
        what = WORDS[kind].format(given=_shown(first["input"]), **first.get("ctx", {}))
    else:
        what = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, place)) or 'config'}: {what}"


def _shown(value: Any) -> str:
    return f"{value!r:.60}"


def _unknown(key: str, known: list[str]) -> str:
    near = get_close_matches(key, known, 1)
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


# Keys ---------------------------------------------------------------------------


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
