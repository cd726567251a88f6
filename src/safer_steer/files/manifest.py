"""`manifest.json`: what a run has finished and what came of it. A stage's entry is written after its last
file, so it marks the stage as done.

An export folder has one too, with `export` as its only stage. The file is canonical JSON.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field

from safer_steer.config.changes import settings_of
from safer_steer.config.file import BoundedLoader
from safer_steer.errors import UserError
from safer_steer.files.inputs import Compared, Difference, Taken, compare
from safer_steer.files.store import canonical, content_id, inside, sha256_of, write_atomic
from safer_steer.prompts.base import fingerprints

PACKAGES = (
    *("safer-steer", "torch", "transformers", "trl", "accelerate", "peft", "datasets"),
    *("aiohttp", "pydantic", "pillow", "scipy"),
)
"""Whose versions are noted."""

NAME = "manifest.json"
TRANSIENT = ("checkpoint-", ".")
"""Files and folders whose names begin so are means, no artefacts: a training that goes on deletes them."""
CROSSPLAY = "rl/crossplay"
"""What the command `cross-play` adds to a finished stage begins so."""


NO_INPUTS: Taken = {"files": {}, "rows": {}, "folders": {}}


class _File(BaseModel):
    bytes: int
    sha256: str


class _Inputs(BaseModel):
    files: dict[str, tuple[int, int, int, str]]
    rows: dict[str, str]
    folders: dict[str, list[Annotated[str, Field(pattern=r"^([^*/]|\*[^*/])+\*?$")]]]


class _Entry(BaseModel):
    """What is read of a stage's entry."""

    files: dict[str, _File]
    built_on: dict[str, str]
    outputs: list[str] = []
    prompts: dict[str, str] = {}
    inputs: _Inputs | None = None


class _Override(BaseModel):
    """What is read of a gate that was overridden."""

    stage: str
    gate: str
    step: int | None


class _Content(BaseModel):
    """What is read of the file. A folder may come from somebody else."""

    stages: dict[str, _Entry]
    overrides: list[_Override] = []


class Manifest:
    """Stages by name, each with its files' SHA-256 and sizes, seconds, calls to models, versions, and what it
    was built on.

    A run's stages also hold the SHA-256 of the config they ran with (`config_sha256`), of the prompts they
    asked with, by name, and of what they read from outside the folder (`inputs.Taken`).
    """

    def __init__(self, folder: Path) -> None:
        """Read `folder/manifest.json`; without one, nothing is finished yet. Raises `UserError` if it is
        damaged."""
        self.folder, self.path = folder, folder / NAME
        self.stages: dict[str, dict[str, Any]] = {}
        self.overrides: list[dict[str, Any]] = []
        """Gates that were overridden (`run.gates`): stage, gate, step, and what was measured."""
        if self.path.is_file():
            try:
                content = json.loads(self.path.read_bytes())
                _Content.model_validate(content)
                self.stages, self.overrides = content["stages"], content.get("overrides", [])
            except (ValueError, RecursionError):
                raise UserError(
                    f"{self.path}: not a valid manifest; restore it, or run every stage or the export again"
                    " without it"
                ) from None

    def finished(self, stage: str) -> bool:
        """Whether the stage is done: it has an entry, and its files are there in their sizes (`verify` looks
        closer). Raises `UserError` if it was built on other files than the stages before it hold now."""
        if not self.whole(stage):
            return False
        for before, digest in self.stages[stage]["built_on"].items():
            if before in self.stages and self._digest(before) != digest:
                raise UserError(
                    f"{self.folder}: `{before}` changed since `{stage}` was made from it; start over with"
                    " --fresh"
                )
        return True

    def whole(self, stage: str) -> bool:
        """The same, whatever it was built on."""
        entry = self.stages.get(stage)
        return entry is not None and all(
            _has_size(self.folder / name, facts["bytes"]) for name, facts in entry["files"].items()
        )

    def refuse_edited(self, stage: str) -> None:
        """Raises `UserError` if the scripts or dialogues that a finished stage wrote were changed since. A
        file that is missing is no error: its stage writes it again."""
        for name, facts in self.stages.get(stage, {"files": {}})["files"].items():
            path = self.folder / name
            if _is_data(name) and path.is_file() and sha256_of(path) != facts["sha256"]:
                raise UserError(
                    f"{self.folder}: {name} changed since `{stage}` finished; restore it, or delete it and"
                    f" run `safer-steer {stage}` again, which pays for nothing twice"
                )

    def refuse_other_inputs(self, stage: str, renew: bool = False) -> str:
        """Compare the inputs of a stage, and of those it was built on, with what they are now. A file in the
        same state is trusted. With `renew`, which only the process that has locked the folder may ask for,
        the present state of files with the same content is noted, to trust it the next time.

        Returns in one line which files of its own are not there to be compared; "" if all are. Raises
        `UserError` if a file was changed or added; names the first, and its row."""
        entry = self.stages.get(stage, {"built_on": ()})
        for before in entry["built_on"]:
            self.refuse_other_inputs(before, renew)
        compared = compare(entry.get("inputs", NO_INPUTS), whole=False)
        if compared.differing:
            first = compared.differing[0]
            built_on = any(stage in other["built_on"] for other in self.stages.values())
            outputs = [name for name in entry["outputs"] if (self.folder / name).exists()]
            redo = (
                "start over with --fresh, or choose another folder"
                if built_on
                else f"delete {', '.join(outputs)} there and run the same command again, which pays for"
                " nothing twice"
            )
            raise UserError(f"{self.folder}: {first.path} {_in_words(first, stage)}; restore it, or {redo}")
        if renew and compared.trusted_anew:
            entry["inputs"] = compared.trusted_anew
            self._write()
        return _missing_in_words(compared, stage)

    def record(
        self, stage: str, names: tuple[str, ...], built_on: tuple[str, ...], facts: dict[str, Any]
    ) -> None:
        """Enter a finished stage; `names` are its files and folders, "." for all that there is, `facts` what
        else is to be known of it."""
        self.stages[stage] = {
            "outputs": sorted(names),
            "files": {
                name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
                for name, path in _by_path(self.folder, names).items()
            },
            "built_on": {before: self._digest(before) for before in built_on if before in self.stages},
            "versions": versions(),
            **facts,
        }
        self._write()

    def override(self, stage: str, gate: str, step: int | None, noted: dict[str, Any]) -> None:
        """Note that a run went on although a gate's quantity was out of its band; `step` is RL's."""
        self.overrides.append({"stage": stage, "gate": gate, "step": step, **noted})
        self._write()

    def overridden(self, stage: str, gate: str, step: int | None) -> bool:
        """Whether that was noted for this step, or for the end of the stage."""
        key = stage, gate, step
        return any((one["stage"], one["gate"], one["step"]) == key for one in self.overrides)

    def _write(self) -> None:
        overrides = {"overrides": self.overrides} if self.overrides else {}
        write_atomic(self.path, canonical({"stages": self.stages, **overrides}))

    def go_on(self, path: Path, settings: Any, again: Collection[str]) -> None:
        """Note that the config in `path` is about to be replaced by one that gives the stages in `again` more
        to do, and no other. Those are not finished any more."""
        before, after = config_sha256(path), settings_sha256(settings)
        self.stages = {stage: entry for stage, entry in self.stages.items() if stage not in again}
        for entry in self.stages.values():
            if entry.get("config") == before:
                entry["config"] = after
        if self.path.is_file():
            self._write()

    def _digest(self, stage: str) -> str:
        return content_id(self.stages[stage]["files"])


def _is_data(name: str) -> bool:
    """Whether a file holds scripts or dialogues that later stages read."""
    folder, _, rest = name.partition("/")
    return folder in ("seeds", "splits", "bootstrap") and rest.endswith(".jsonl") and "journal" not in rest


def verify(folder: Path) -> list[str]:
    """Look at a run or an export again: its files, its config, its inputs, and whether its prompts are still
    those installed. Inputs that are not there are no difference (`not_compared`). Returns one line for each
    difference. Raises `UserError` if there is no manifest, or it is damaged."""
    if not (folder / NAME).is_file():
        raise UserError(
            f"{folder}: no manifest.json in it; give an export, or the folder of a run of which a stage is"
            " finished"
        )
    stages = Manifest(folder).stages
    if not stages.keys() - {"report"}:  # a report can be written before any stage has finished
        raise UserError(f"{folder}: no stage is finished in it, so there is nothing to verify")
    listed = {name for entry in stages.values() for name in entry["files"]}
    config = config_sha256(folder / "config.yaml")
    differing = []
    for stage, entry in stages.items():
        for name, facts in entry["files"].items():
            path = inside(folder, name)
            if not path.is_file():
                differing.append(f"{name}: missing ({stage})")
            elif sha256_of(path) != facts["sha256"]:
                differing.append(f"{name}: changed since `{stage}` finished")
        differing += [
            f"{name}: added since `{stage}` finished"
            for name in _by_path(folder, [name for name in entry.get("outputs", ()) if inside(folder, name)])
            if name not in listed and name != NAME and not name.startswith(CROSSPLAY)
        ]
        if entry.get("config", config) != config:
            differing.append(f"config.yaml: another one than `{stage}` ran with")
        for name, digest in entry.get("prompts", {}).items():
            if fingerprints([name]).get(name) != digest:
                differing.append(f"prompt {name}: the one installed now is another than `{stage}` asked with")
        inputs = compare(entry.get("inputs", NO_INPUTS), whole=True)
        differing += [f"{one.path}: {_in_words(one, stage)}" for one in inputs.differing]
    return differing


def not_compared(folder: Path) -> list[str]:
    """One line for each stage of which inputs are not there to be compared: files that were moved away, or
    are on the machine that the run was copied from."""
    stages = Manifest(folder).stages
    by_stage = {
        stage: compare(entry.get("inputs", NO_INPUTS), whole=False) for stage, entry in stages.items()
    }
    return [line for stage, compared in by_stage.items() if (line := _missing_in_words(compared, stage))]


def _in_words(difference: Difference, stage: str) -> str:
    """How an input is another now."""
    row = f": {difference.row}" if difference.row else ""
    return (
        f"{difference.what} since `{stage}` read {'its folder' if difference.what == 'added' else 'it'}{row}"
    )


def _missing_in_words(compared: Compared, stage: str) -> str:
    if not compared.missing:
        return ""
    first, *others = compared.missing
    more = f" and {len(others)} more" if others else ""
    return f"{stage}: {first}{more}, which it read, cannot be compared: not there any more"


def config_sha256(path: Path) -> str | None:
    """The hash in hex of what a config file says of the run (`config_changes.settings_of`), as canonical
    JSON; None if it is missing or no YAML. A continuation may rewrite the file with other values of other
    keys, so they do not count."""
    try:
        return settings_sha256(yaml.load(path.read_bytes(), BoundedLoader)) if path.is_file() else None
    except (OSError, yaml.YAMLError, ValueError, TypeError, RecursionError):  # TypeError: of a date
        return None


def settings_sha256(settings: Any) -> str:
    """The same of a config's settings."""
    return hashlib.sha256(canonical(settings_of(settings)).encode()).hexdigest()


def versions() -> dict[str, str]:
    by_package = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            continue
    return by_package


def _by_path(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """What there is of these files and folders, by path relative to `folder`."""
    paths = [path for name in names for path in _files(folder / name)]
    return {path.relative_to(folder).as_posix(): path for path in sorted(paths)}


def _files(path: Path) -> list[Path]:
    """The files in a folder, without those that a link in it to another folder leads to."""
    if path.is_dir():
        entries = [entry for entry in path.iterdir() if entry.is_file() or not entry.is_symlink()]
        return [file for entry in entries if not entry.name.startswith(TRANSIENT) for file in _files(entry)]
    return [path] if path.is_file() and not path.name.endswith(".part") else []


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
