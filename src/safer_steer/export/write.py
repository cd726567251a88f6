"""`safer-steer export`: writes a run's data to a folder that any trainer can read.

The export is built in a folder beside the target and moved into place once its manifest is written, so a
killed export leaves nothing that looks finished. The same run always gives the same bytes, Parquet included:
no file records when or where it was made.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safer_steer.bench.protocol import FILE as PROTOCOL
from safer_steer.bench.protocol import read as read_protocol
from safer_steer.config import Config
from safer_steer.config.file import config_in
from safer_steer.data.bootstrap import single_turn
from safer_steer.dialogue import Dialogue, Seed, each_row
from safer_steer.errors import UserError
from safer_steer.export import columns, verl
from safer_steer.export.card import SplitCounts, card, shard_name
from safer_steer.export.columns import ParquetShards
from safer_steer.export.llamafactory import LlamaFactory, family_of, without_template
from safer_steer.files.images import pictures_in
from safer_steer.files.manifest import Manifest, config_sha256
from safer_steer.files.store import sha256_of, whole_folder

CONTENTS = ("README.md", "data", "llamafactory", "verl", PROTOCOL)
"""What an export contains besides its manifest."""


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


def export(run: Path, to: Path, name: str = "steer") -> tuple[list[SplitCounts], list[str]]:
    """Write the export of a run to `to`, replacing an older export there. `name` is that of the data set;
    `<name>_sft` in LLaMA-Factory.

    Returns counts of what was written, one per split, and one line for each part left out because its stage
    is not finished, and for a student that LLaMA-Factory has no template for. Raises `UserError` if the
    folder is not a run, or nothing in it is finished; `to` contains other files; a row or picture is
    unusable."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise UserError(f"--name {name}: give a name of letters, digits, '-', '_' and '.'")
    config = config_in(run)
    parts, missing = _splits(run, config)
    to = to.absolute()
    _check_ours(to)
    # Other folders may also contain `data` and a README.md.
    if to.exists() and any(to.iterdir()) and "export" not in Manifest(to).stages:
        raise UserError(
            f"{to}: has other files and is not an export (no manifest.json of one);"
            " choose an empty or a new folder with --to"
        )
    stages, family, measured = Manifest(run).stages, family_of(run, config.student), None
    if any(each.name == "sft" for each in parts) and (line := without_template(family, config.student)):
        missing.append(line)
    with whole_folder(to) as part:
        tallies = [_write(each, part, name, config, family) for each in parts]
        if "bench" in stages and (run / PROTOCOL).is_file():
            measured = read_protocol(run / PROTOCOL).sha256
            shutil.copyfile(run / PROTOCOL, part / PROTOCOL)
        (part / "README.md").write_text(card(name, config, tallies, stages, measured), encoding="utf-8")
        Manifest(part).record("export", (".",), (), facts_of(run, name, stages))
    return tallies, missing


def _check_ours(folder: Path) -> None:
    """Check that the folder is missing, or has files of an export alone."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a folder with --to")
    ours = {*CONTENTS, "manifest.json"}
    foreign = (
        sorted(entry.name for entry in folder.iterdir() if entry.name not in ours) if folder.is_dir() else []
    )
    if foreign:
        raise UserError(
            f"{folder}: has other files ({foreign[0]}); choose an empty or a new folder with --to"
        )


def _write(part: Split, folder: Path, name: str, config: Config, family: str | None) -> SplitCounts:
    """Write one split in every format it is exported in. One pass, so only one dialogue's pictures are loaded
    at a time."""
    tally = SplitCounts(part.name, part.split)
    pictures_of = pictures_in(part.folder, config.student.max_pixels)
    data = ParquetShards(folder / "data", shard_name(part.name, part.split), columns.schema_of(part.name))
    factory = LlamaFactory(folder / "llamafactory", name, config, family) if part.name == "sft" else None
    for_verl = ParquetShards(folder / "verl", "rl", verl.schema_of()) if part.name == "rl" else None
    for index, seed in enumerate(part.rows()):
        try:
            pictures = pictures_of(seed.all_images)
        except UserError as error:
            raise UserError(f"{part.name} {seed.id}: {error}") from None
        size = sum(len(picture.data) for picture in pictures) + 2 * len(seed.model_dump_json())
        data.write(columns.row(part.name, seed, pictures, config), size)
        if for_verl:
            for_verl.write(verl.row(seed, pictures, config.student.system, index, name), size)
        if factory and isinstance(seed, Dialogue):
            factory.write(seed, pictures)
        tally.add(seed, pictures)
    data.close()
    if for_verl:
        for_verl.close()
        (folder / "verl" / "overrides.txt").write_text(
            verl.as_lines(verl.overrides(config)), encoding="utf-8"
        )
    if factory:
        factory.close()
    return tally


def facts_of(run: Path, name: str, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How an export was made: the config's hash and, for every finished stage, its prompt hashes and
    versions."""
    facts = {}
    for stage, entry in stages.items():
        facts[stage] = {key: entry[key] for key in ("prompts", "versions") if key in entry}
    return {"name": name, "run": {"config": config_sha256(run / "config.yaml"), "stages": facts}}


def _splits(run: Path, config: Config) -> tuple[list[Split], list[str]]:
    """The splits made by the run's finished stages, and one line for each part that does not exist yet.
    Raises `UserError` if there is nothing to export, a file was changed since its stage wrote it, or two
    suites would have the same name."""
    manifest = Manifest(run)
    made_by = {"sft": "bootstrap", "rl": "assemble", "bench": "assemble" if _assembled(run) else "bench"}
    parts: list[Split] = []
    missing = []
    for name, stage in made_by.items():
        splits = _splits_of(name, run, config) if manifest.finished(stage) else []
        if not splits and manifest.finished(stage) and name in EMPTY:
            raise UserError(f"{run}: nothing to export as {name}: {EMPTY[name]}")
        parts += splits
        if not splits:
            why = "made none" if manifest.finished(stage) else "is not finished"
            missing.append(f"{name}: left out, `{stage}` {why}")
    if not parts:
        raise UserError(f"{run}: nothing to export yet ({'; '.join(missing)}); run the stages first")
    hashes: dict[Path, str] = {}
    for entry in manifest.stages.values():
        for name, facts in entry["files"].items():
            hashes[run / name] = facts["sha256"]
    for part in parts:
        file = part.file
        if not file.is_file() or sha256_of(file) != hashes.get(file):
            raise UserError(
                f"{file}: changed since its stage finished (`safer-steer verify {run}`);"
                " delete it and run its stage again, which pays for nothing twice"
            )
    return parts, missing


def _splits_of(name: str, run: Path, config: Config) -> list[Split]:
    if name == "sft":
        folder = single_turn.FOLDER if config.bootstrap.sft.single_turn else ""
        file = run / "bootstrap" / folder / "kept.jsonl"
        return [Split(name, "train", file, run, run, config)] if file.stat().st_size else []
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
    return sorted((run / "splits" / "bench").glob("*.jsonl"))
