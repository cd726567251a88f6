"""`manifest.json`: what a run has finished and what came of it. A stage's entry is written after its last file, so it marks the stage as done."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safer_steer.errors import UserError
from safer_steer.store import content_id, inside, write_atomic

PACKAGES = ("safer-steer", "torch", "transformers", "trl", "accelerate", "peft", "datasets", "openai", "pydantic", "pillow", "lifelines")
"""Whose versions are noted."""

TRANSIENT = ("checkpoint-", ".")
"""Files and folders whose names begin so are means, no artefacts: a training that goes on deletes them."""


class Manifest:
    """Stages by name, each with its files' SHA-256 and sizes, seconds, calls to models, versions, and what it was built on."""

    def __init__(self, folder: Path) -> None:
        """Read `folder/manifest.json`; without one, nothing is finished yet.

        Raises:
            UserError: the file is damaged.
        """
        self.folder, self.path = folder, folder / "manifest.json"
        self.stages: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            try:
                self.stages = json.loads(self.path.read_bytes())["stages"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{self.path}: no valid manifest; move it away to have every stage looked through again") from None

    def finished(self, stage: str) -> bool:
        """Whether the stage is done: it has an entry, and its files are there in their sizes (`verify` looks closer).

        Raises:
            UserError: it was built on other files than the stages before it hold now.
        """
        entry = self.stages.get(stage)
        if entry is None or any(not _has_size(self.folder / name, facts["bytes"]) for name, facts in entry["files"].items()):
            return False
        for before, digest in entry["built_on"].items():
            if before in self.stages and self._digest(before) != digest:
                raise UserError(f"{self.folder}: `{stage}` was made from another `{before}` than is there now; start over with --fresh")
        return True

    def record(self, stage: str, names: tuple[str, ...], built_on: tuple[str, ...], facts: dict[str, Any]) -> None:
        """Enter a finished stage; `names` are its files and folders, `facts` what else is to be known of it."""
        paths = sorted(path for name in names for path in _files(self.folder / name))
        self.stages[stage] = {
            "files": {path.relative_to(self.folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths},
            "built_on": {before: self._digest(before) for before in built_on if before in self.stages},
            "versions": versions(),
            **facts,
        }
        text = json.dumps({"stages": self.stages}, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        write_atomic(self.path, text + "\n")

    def _digest(self, stage: str) -> str:
        return content_id(self.stages[stage]["files"])


def verify(folder: Path) -> list[str]:
    """Hash every file of the manifest again; returns one line for each that differs.

    Raises:
        UserError: there is no manifest.
    """
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{folder}: no manifest.json in it; give the folder of a run of which a stage is finished")
    differing = []
    for stage, entry in Manifest(folder).stages.items():
        for name, facts in entry["files"].items():
            path = inside(folder, name)
            if not path.is_file():
                differing.append(f"{name}: missing ({stage})")
            elif sha256(path) != facts["sha256"]:
                differing.append(f"{name}: changed since `{stage}` finished")
    return differing


def sha256(path: Path) -> str:
    """The file's hash in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Python's and the packages' versions."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for entry in path.iterdir() if not entry.name.startswith(TRANSIENT) for file in _files(entry)]
    return [path] if path.is_file() and not path.name.endswith(".part") else []


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
