"""What a config key is to a run that goes on: its kind, a mark at the key's definition in `config/`.
`config/changes.py` compares configs by it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from safer_steer.dialogue import Strict


class Section(Strict):
    """Keys of a YAML file; an unknown one is an error. The text below a key is its description."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)


class KeyKind(StrEnum):
    """What another value of a key means for a run that was begun with the first."""

    RUN = "run"
    """Another run: the value says what is made or measured. Every key without a mark, since to mix the work
    of two values unseen is worse than to start over once too often."""
    CALL = "call"
    """The same run, and part of what a model is asked with: what is done stays, and calls from now on have
    the new value."""
    FREE = "free"
    """The same run and the same replies: the key says how something is reached, shown, paid, checked or
    fitted into memory."""


LATER = "later"
"""Marks a key that came when runs without it were there: while it is at its default, it is no part of what
a run is, and these keep their hashes and ids."""

_Value = TypeVar("_Value")

OfCall = Annotated[_Value, KeyKind.CALL]
Free = Annotated[_Value, KeyKind.FREE]
Later = Annotated[_Value, LATER]


def _no_key(name: str | None) -> str | None:
    if name and (not re.fullmatch(r"[A-Za-z_]\w*", name) or re.match(r"(sk|hf|gsk|pk)_", name)):
        raise ValueError("is no name of an environment variable; put the key into one, and name that here")
    return name


KeyVariable = Annotated[str | None, AfterValidator(_no_key)]
"""The name of an environment variable that holds a key. A key in its place is refused, and not shown."""


def _no_zero(steps: int) -> int:
    if steps < -1 or steps == 0:
        raise ValueError(f"must be at least 1, or -1 for what the data give, not {steps}")
    return steps


Steps = Annotated[int, AfterValidator(_no_zero)]
"""A number of training steps. 0 is refused, which would be taken for no limit."""


def kind_of(field: FieldInfo) -> KeyKind:
    """The kind of the key that this field defines."""
    return next((mark for mark in field.metadata if isinstance(mark, KeyKind)), KeyKind.RUN)


def came_later(field: FieldInfo) -> bool:
    """Whether the key is marked `LATER`."""
    return LATER in field.metadata


def default_of(field: FieldInfo) -> Any:
    """The key's value where a config says nothing."""
    return field.get_default(call_default_factory=True)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, by itself or in lists or dicts; None if it holds plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(section_of, get_args(annotation))), None)
