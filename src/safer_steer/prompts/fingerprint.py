"""A hash of a prompt. It lets a manifest record which wording made a run's data, and `verify` check that it
is still the installed one."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import Any

from jinja2 import meta

import safer_steer.prompts
from safer_steer.files.store import canonical
from safer_steer.prompts import base
from safer_steer.prompts.base import Prompt


def fingerprint(prompt: Prompt[Any, Any]) -> str:
    """SHA-256 in hex of the template's text, of all templates it references, and of the answer's JSON
    schema."""
    sources: dict[str, str] = {}
    open_names = [f"{prompt.name}.j2"]
    while open_names:
        name = open_names.pop()
        if name not in sources:
            sources[name] = _source(name)
            open_names += [
                str(found) for found in meta.find_referenced_templates(base._templates().parse(sources[name]))
            ]
    return hashlib.sha256(canonical({"templates": sources, "schema": prompt.schema()}).encode()).hexdigest()


def fingerprints(names: Iterable[str]) -> dict[str, str]:
    """The hashes of these prompts as installed. Names without a prompt are omitted."""
    return {name: fingerprint(installed()[name]) for name in sorted(names) if name in installed()}


@cache
def installed() -> dict[str, Prompt[Any, Any]]:
    """Every prompt of the package, by name."""
    modules = (
        importlib.import_module(f"{safer_steer.prompts.__name__}.{found.name}")
        for found in pkgutil.iter_modules(safer_steer.prompts.__path__)
    )
    return {
        value.name: value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Prompt)
    }


def _source(name: str) -> str:
    environment = base._templates()
    assert environment.loader
    return environment.loader.get_source(environment, name)[0]
