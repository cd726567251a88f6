"""The packages of `pip install safer-steer`, without any extra: a folder of links into this environment."""

from __future__ import annotations

import os
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from places import ROOT


def link_core(folder: Path, package: Path = ROOT / "src") -> dict[str, str]:
    """Link the base dependencies, and what they need in turn, into `folder`. `package` is where this package
    lies.

    Returns:
        The environment in which `python -S` sees the package, those packages, and no others.
    """
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    folder.mkdir(exist_ok=True)
    for name in closure(wanted):
        for file in distribution(name).files or ():
            top = file.parts[0]
            link = folder / top
            if top not in ("..", "__pycache__") and not link.exists():
                link.symlink_to(distribution(name).locate_file(top))
    path = os.pathsep.join([str(folder), str(package)])
    return os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def closure(requirements: list[str]) -> set[str]:
    """Names of the installed distributions that these requirements, with their extras, come down to.

    Raises:
        PackageNotFoundError: one of them is not installed.
    """
    found: dict[str, set[str]] = {}
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        new = {"", *wanted.extras} - found.get(name, set())
        if not new:
            continue
        found.setdefault(name, set()).update(new)
        needs = distribution(name).requires or []
        for line in map(Requirement, needs):
            if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in new):
                waiting.append(line)
    return set(found)
