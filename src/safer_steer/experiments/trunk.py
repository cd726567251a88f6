"""Runs whose configs agree up to a stage share what comes before it: it is worked once, and linked into each
run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from safer_steer.config import Config
from safer_steer.config.changes import EVERY_KIND, settings_of
from safer_steer.config.file import dump_config
from safer_steer.files.manifest import Manifest, config_sha256
from safer_steer.files.store import canonical, content_id, inside, write_atomic
from safer_steer.stages import STAGES

SHARED = tuple(STAGES)[: list(STAGES).index("bench")]
"""The stages that can be shared: all before the bench."""
UP_TO_SFT = tuple(STAGES)[: list(STAGES).index("rl")]
NOT_RL_ALONE = ("seeds", "benign_share", "single_turn", "rollouts")
"""The keys of `rl` that bear on other stages: which scripts are kept for RL, and what samples the student's
answers."""


def run_id(config: Config) -> str:
    """Equal for configs that differ in the name alone. Keys that may change within a run count: arms may
    compare their values."""
    return content_id(settings_of(config.model_dump(mode="json"), EVERY_KIND) | {"name": ""})


def trunk_id(config: Config) -> str:
    """Equal for configs whose stages up to SFT come out the same. It errs on the side of difference: all but
    the name, the bench, the tutor and what RL does with its scripts counts."""
    return run_id(unmeasured(up_to_sft(config)))


def up_to_sft(config: Config) -> Config:
    """The config with tutor and RL's own settings left at their defaults: the same for all runs that share
    the stages up to SFT."""
    settings = _without_tutor(config)
    settings["rl"] = {key: settings["rl"][key] for key in NOT_RL_ALONE}
    return Config.model_validate(settings)


def unmeasured(config: Config) -> Config:
    """The config with the bench's own settings left at their defaults: the same for all runs that train the
    same students. The suites stay where scripts are kept out of training for them."""
    suites = {"suites": config.bench.suites} if config.assembly else {}
    return Config.model_validate(config.model_dump(mode="json") | {"bench": suites})


def _without_tutor(config: Config) -> dict[str, Any]:
    """The config's settings. The tutor, whom only RL asks, is left out, unless it may describe pictures."""
    settings = config.model_dump(mode="json")
    if all(role.pictures != "caption" for role in config.roles.values()):
        settings["roles"].pop("tutor", None)
    return settings


def branch(trunk: Path, folder: Path, config: Config) -> None:
    """Make a run folder in which the shared stages are done, with the files of `trunk` as hard links (copies
    where the file system has none). The folder is complete or absent. Does nothing if it is there."""
    if folder.exists():
        return
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_atomic(part / "config.yaml", dump_config(config))
    found = {name: entry for name, entry in Manifest(trunk).stages.items() if name in SHARED}
    for entry in found.values():
        for name in entry["files"]:
            _link(inside(trunk, name), part / name)
        entry["config"] = config_sha256(part / "config.yaml")
    write_atomic(part / "manifest.json", canonical({"stages": found}))
    part.rename(folder)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
