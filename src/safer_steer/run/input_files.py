"""Finds the files of a stage's inputs: what the config names, and the pictures that its rows name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from safer_steer.config import Config, Source
from safer_steer.config.named import search_working_folder
from safer_steer.data.sources.choice_rows import QUESTIONS
from safer_steer.data.sources.find_splits import more_shards
from safer_steer.data.sources.load import files_of, pairs_of, read_samples
from safer_steer.data.sources.set_row import Layout
from safer_steer.files.inputs import Input, Taken, take
from safer_steer.files.store import inside
from safer_steer.stages import STAGES, Stage

PACKAGE = Path(__file__).parent.parent
WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model", "*.jinja")
"""Names of a model's files: weights, settings, tokenizer, template."""


def take_inputs(stage: Stage, config: Config, student: bool = True) -> Taken:
    """The stage's inputs as they are now; without `student`, those that it reads where no student is loaded.
    Raises `UserError` if rows of one cannot be read."""
    files, folders = set[Path](), dict[Path, set[str]]()
    for one in stage.inputs(config):
        path = Path(one.path)
        match one.holds:
            case "weights" | "template" if not student:
                continue
            case "pictures":  # those that rows name
                continue
            case "module":
                files |= {file for file in [_module(one.path)] if file}
            case "weights" if path.is_dir():
                folders.setdefault(path, set()).update(WEIGHTS)
            case "pairs" | "questions":
                for file in files_of(*_set(one)):
                    files.add(file)
                    if path.is_dir() and file.suffix == ".parquet":
                        folders.setdefault(file.parent, set()).add(more_shards(file))
            case _ if path.is_file():
                files.add(path)
        files.update(_pictures(one, config))
    return take(files, folders)


def named_paths(config: Config) -> list[str]:
    """The files and folders that the config names, as absolute paths."""
    named = {one.path for stage in STAGES.values() for one in stage.inputs(config) if one.holds != "module"}
    return sorted(os.path.realpath(path) for path in named if os.path.exists(path))


def _pictures(one: Input, config: Config) -> Iterator[Path]:
    """The picture files that an input's rows name."""
    path = Path(one.path)
    if one.holds == "scripts":
        from safer_steer.dialogue import read_seeds

        for image in chain.from_iterable(seed.all_images for seed in read_seeds(path)):
            yield inside(path.parent, image)
    elif one.holds == "intents":
        from safer_steer.bench.adaptive.intents import read_intents

        for image in chain.from_iterable(intent.all_images for intent in read_intents(path)):
            yield inside(path.parent, image)
    elif one.holds == "pairs":
        yield from _until_embedded((pair.image,) for pair in pairs_of(_set(one)[0], config))
    elif one.holds == "questions":
        source, layout = _set(one)
        samples = read_samples(source, seed=0, pictureless=True, layout=layout)
        yield from _until_embedded(sample.images for sample in samples)


def _set(one: Input) -> tuple[Source, Layout | None]:
    """The set that an input of rows is, and how they are read where its name does not say."""
    if one.source:
        return one.source, None
    return Source(name="questions", path=one.path), QUESTIONS


def _until_embedded(images: Iterator[tuple[object, ...]]) -> Iterator[Path]:
    """The pictures that are files. A set that embeds one embeds them all, in files that are read as wholes:
    it is not read to its end for them."""
    for image in chain.from_iterable(images):
        if not isinstance(image, Path):
            return
        yield image


def _module(name: str) -> Path | None:
    """The file of `package.module:Name`; None if it has none that can be found, or is part of this package,
    whose version the manifest has."""
    search_working_folder()
    first, *within = name.partition(":")[0].split(".")
    try:
        spec = find_spec(first)
    except (ImportError, ValueError):
        return None
    for part in within:  # of a whole dotted name, `find_spec` would run the packages around it
        first = f"{first}.{part}"
        spec = spec and PathFinder.find_spec(first, spec.submodule_search_locations or [])
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    path = Path(spec.origin)
    return None if path.is_relative_to(PACKAGE) else path
