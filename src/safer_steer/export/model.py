"""`safer-steer export RUN --model DIR`: a trained model, to be served or loaded elsewhere.

The stages have saved the weights in the student's number type, or a LoRA adapter, with processor and chat
template. Those files are compared with the run's manifest and copied; an adapter is merged into its base.
Config and generation config are written anew, so that a plain request ends and samples an answer as the bench
did, and a card is added. The folder is complete or absent.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safer_steer.config import Config, ModelName
from safer_steer.config.file import config_in
from safer_steer.errors import UserError
from safer_steer.export.model_card import model_card
from safer_steer.export.write import facts_of
from safer_steer.files.manifest import Manifest
from safer_steer.files.store import sha256_of, whole_folder
from safer_steer.stages import TRAINED_BY
from safer_steer.student.adapters import CONFIG, WEIGHTS, is_adapter

if TYPE_CHECKING:
    from safer_steer.student.merging import Remainder


WRITTEN = ("README.md", "config.json", "generation_config.json", "manifest.json", "manifest.json.part")
"""Files that are not copied from the run."""


class Exported(NamedTuple):
    """What was written."""

    model: ModelName
    remainder: Remainder | None
    """What merging has left of an adapter; None if all weights were trained."""


def export_model(run: Path, to: Path, which: ModelName | None = None) -> Exported:
    """Write a trained model, by default the last one that the run has trained, to the empty or new folder
    `to`. Raises `UserError` if the folder is not a run or has no such model, the weights were changed since
    their stage finished, or `to` is not empty."""
    config, manifest = config_in(run), Manifest(run)
    model = _trained(run, manifest, which)
    stage = TRAINED_BY[model][0]
    source = run / stage / "model"
    to = to.absolute()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to}: exists and is not an empty folder; give a new folder with --model")
    files = [path for path in source.iterdir() if path.name not in WRITTEN]
    _refuse_changed(run, stage, files, manifest)
    with whole_folder(to) as part:
        merge = _merged(source, config)
        remainder = merge.remainder if merge else None
        for path in files:
            if path.name not in (CONFIG, WEIGHTS):
                shutil.copyfile(path, part / path.name)
        if merge:
            merge.model.save_pretrained(part)
        else:
            shutil.copyfile(source / "config.json", part / "config.json")
        _write(part / "config.json", _config(part))
        _write(part / "generation_config.json", _generation_config(part, config))
        card = model_card(to.name, run, config, manifest.stages, model, remainder)
        (part / "README.md").write_text(card, encoding="utf-8")
        facts = {"model": model} | facts_of(run, to.name, manifest.stages)
        if remainder:
            facts |= {"update_kept": remainder.share, "rounding_noise": remainder.noise}
        Manifest(part).record("export", (".",), (), facts)
    return Exported(model, remainder)


def _refuse_changed(run: Path, stage: str, files: Sequence[Path], manifest: Manifest) -> None:
    entries = manifest.stages[stage]["files"]
    for path in files:
        if sha256_of(path) != entries.get(path.relative_to(run).as_posix(), {}).get("sha256"):
            raise UserError(
                f"{path}: changed since `{stage}` finished (`safer-steer verify {run}`); delete"
                f" {path.parent} and run `safer-steer {stage}` again"
            )


class _Merge(NamedTuple):
    model: Any
    remainder: Remainder


def _merged(source: Path, config: Config) -> _Merge | None:
    """The model with its adapter merged; None if all weights were trained."""
    if not is_adapter(source):
        return None
    from safer_steer.student.load import load_student
    from safer_steer.student.merging import merged

    student = config.student.model_copy(update={"device": "cpu"})
    return _Merge(*merged(load_student(student, source).model, config.seed))


def _trained(run: Path, manifest: Manifest, which: ModelName | None) -> ModelName:
    models: tuple[ModelName, ...] = (which,) if which else ("safer_steer", "sft")
    for model in models:
        if all(manifest.finished(stage) for stage in TRAINED_BY[model]):
            return model
    stages = " or ".join(f"`{TRAINED_BY[model][0]}`" for model in models)
    raise UserError(f"{run}: no trained model in it, {stages} is not finished; run that stage first")


def _config(folder: Path) -> dict[str, Any]:
    """The model's config. All its parts have the number type of the weights, and the cache, which training
    switches off, is on."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("use_cache", None)
    for part in config.values():
        if isinstance(part, dict) and "dtype" in part:
            part["dtype"] = config["dtype"]
    return config


def _generation_config(folder: Path, config: Config) -> dict[str, Any]:
    """Ends an answer where the bench ends it, at any special token, and samples as the bench did."""
    from safer_steer.student.load import load_processor
    from safer_steer.student.proof import load_renderer

    renderer = load_renderer(load_processor(str(folder)), config.student.system)
    settings = {
        "eos_token_id": [renderer.end, *(token for token in renderer.stops if token != renderer.end)],
        "pad_token_id": renderer.pad,
    }
    begins = renderer.tokenizer.bos_token_id
    if begins is not None:
        settings["bos_token_id"] = begins
    temperature = config.bench.temperature
    if not temperature:
        return settings | {"do_sample": False}
    return settings | {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
