"""The parts of a run that can be exported: dialogues for SFT, scripts for RL, suites for the bench."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safer_steer.config import Config
from safer_steer.data.bootstrap import single_turn
from safer_steer.dialogue import Dialogue, Seed, each_row
from safer_steer.errors import UserError
from safer_steer.files.manifest import Manifest
from safer_steer.files.store import sha256_of

EMPTY = {
    "sft": "`bootstrap` kept no dialogue; bootstrap/rejected.jsonl says why;"
    " change the config and run it again",
    "rl": "splits/rl.jsonl is empty, since seeds/ has no scripts of the kinds that `rl.seeds` and"
    " `rl.benign_share` ask for; change them and run `assemble` again",
}
"""What to say about a part that its finished stage left empty."""


@dataclass(frozen=True)
class Split:
    """One split of the export."""

    name: str
    """sft, rl or bench."""
    split: str
    """`train`, or the suite's name."""
    file: Path
    """The JSONL file the rows are in."""
    folder: Path
    """Base folder of the rows' image paths."""
    run: Path
    config: Config

    def rows(self) -> Iterator[Seed]:
        """Its dialogues or scripts, in order. Raises `UserError` at a row that is neither."""
        return each_row(self.file, Dialogue if self.name == "sft" else Seed)


def find_splits(run: Path, config: Config) -> tuple[list[Split], list[str]]:
    """The splits made by the run's finished stages, and one line for each part that does not exist yet.

    Raises:
        UserError: nothing to export yet, a file was changed since its stage wrote it, or two suites would
            have the same name.
    """
    manifest = Manifest(run)
    made_by = {"sft": "bootstrap", "rl": "assemble", "bench": "assemble" if _assembled(run) else "bench"}
    parts: list[Split] = []
    missing = []
    for name, stage in made_by.items():
        made = _made(name, run, config) if manifest.finished(stage) else []
        if not made and manifest.finished(stage) and name in EMPTY:
            raise UserError(f"{run}: nothing to export as {name}: {EMPTY[name]}")
        parts += made
        if not made:
            missing.append(
                f"{name}: left out, `{stage}` "
                + ("made none" if manifest.finished(stage) else "is not finished")
            )
    if not parts:
        raise UserError(f"{run}: nothing to export yet ({'; '.join(missing)}); run the stages first")
    hashes: dict[Path, str] = {}
    for entry in manifest.stages.values():
        hashes |= {run / name: facts["sha256"] for name, facts in entry["files"].items()}
    for file in (part.file for part in parts):
        if not file.is_file() or sha256_of(file) != hashes.get(file):
            raise UserError(
                f"{file}: changed since its stage finished (`safer-steer verify {run}`);"
                " delete it and run its stage again, which pays for nothing twice"
            )
    return parts, missing


def _made(name: str, run: Path, config: Config) -> list[Split]:
    """The splits of a part whose stage is finished."""
    if name == "sft":
        kept = (
            run
            / "bootstrap"
            / (single_turn.FOLDER if config.bootstrap.sft.single_turn else "")
            / "kept.jsonl"
        )
        return [Split(name, "train", kept, run, run, config)] if kept.stat().st_size else []
    if name == "rl":
        file = run / "splits" / "rl.jsonl"
        return [Split(name, "train", file, run, run, config)] if file.stat().st_size else []
    parts: dict[str, Split] = {}
    for file in _assembled(run) or sorted((run / "suites").glob("**/*.jsonl")):
        split = re.sub(r"\W+", "_", file.stem, flags=re.ASCII)  # characters the hub allows in a split's name
        if split in parts:
            raise UserError(
                f"{file}: this suite and {parts[split].file} would both be the split {split};"
                " rename one of them and bench again"
            )
        parts[split] = Split(name, split, file, file.parent, run, config)
    return list(parts.values())


def _assembled(run: Path) -> list[Path]:
    """The suites of STEER-Bench, if there are any."""
    return sorted((run / "splits" / "bench").glob("*.jsonl"))
