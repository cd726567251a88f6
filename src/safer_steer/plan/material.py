"""Reads what is known of a run's input before it starts: how many pairs and scripts there are, how long, and
how large their pictures. Rows are counted exactly; no picture is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from math import ceil
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from safer_steer.bench.adaptive.intents import read_intents
from safer_steer.bench.suite_copies import bring_in
from safer_steer.bench.suites import SANDBOX_DIALOGUES, draw_suite, read_suite, suite_files
from safer_steer.config import Config
from safer_steer.config.bench import EMBEDDED, STEER
from safer_steer.data.seeds.own_scripts import own_scripts
from safer_steer.data.sources.load import pairs_of
from safer_steer.dialogue import Kind, Seed
from safer_steer.files.images import check_header
from safer_steer.files.scaling import fitted
from safer_steer.files.store import inside
from safer_steer.plan.assumptions import Assumptions
from safer_steer.stages.forecast import ForecastInputs, Pairs, Scripts

CHARACTERS = 4
"""Characters per token."""
ENOUGH = 40
"""Pictures of a source, or of a suite, whose sizes are read, and dialogues of an embedded suite that are
written to be read."""


@dataclass
class Material:
    """The pictures and texts that a run starts from."""

    max_pixels: int
    pictures: list[tuple[int, int, int]] = field(default_factory=list)
    """Width and height in pixels, as models see them, and size in bytes: of some pictures of the sources."""
    of_suites: list[tuple[int, int, int]] = field(default_factory=list)
    """The same of the suites."""
    questions: list[int] = field(default_factory=list)
    """Characters of each pair's question."""

    def size(self, image: Path | bytes) -> tuple[int, int, int]:
        """Raises `UserError` if it is no picture."""
        width, height = check_header(image if isinstance(image, Path) else BytesIO(image))
        weight = image.stat().st_size if isinstance(image, Path) else len(image)
        wide, high = fitted(width, height, self.max_pixels)
        return wide, high, weight * wide * high // (width * height)

    def sizes(self, seeds: Sequence[Seed], folder: Path) -> list[tuple[int, int, int]]:
        paths = (inside(folder, image) for seed in seeds for image in seed.all_images)
        return [self.size(path) for path in islice(paths, ENOUGH)]


def read_material(config: Config, assumed: Assumptions) -> tuple[ForecastInputs, Material]:
    """Read all sources and suites once. Raises `UserError`: a source or a suite is missing or unusable."""
    material, adaptive = Material(config.student.max_pixels), config.bench.adaptive
    own = own_scripts(config) if config.seeds.scripts else []
    if own:
        material.pictures = material.sizes(own, Path(config.seeds.scripts or "").parent)
        safe = {seed.meta.get("pair"): seed.meta.get("question_safe") is True for seed in own}
        pairs = [Pairs("train", safe=sum(safe.values()), risky=len(safe) - sum(safe.values()))]
    else:
        pairs = list(_pairs(config, material))
    facts = ForecastInputs(
        pairs,
        own={kind: _alike(rows) for kind in Kind if (rows := [seed for seed in own if seed.kind is kind])},
        suites=list(_suites(config, material)),
        intents=len(read_intents(Path(adaptive.intents))) if adaptive and adaptive.intents else None,
        success=assumed.success,
        success_turn=assumed.success_turn,
        keeps=assumed.keeps,
    )
    return facts, material


def _pairs(config: Config, material: Material) -> Iterator[Pairs]:
    for source in config.seeds.sources:
        numbers: Counter[str] = Counter()
        for pair in pairs_of(source, config):
            harmless = "safe" if pair.answer is None else "answered"
            numbers[harmless if pair.safe is True else "risky"] += 1
            material.questions.append(len(pair.question))
            if numbers.total() <= ENOUGH:
                image = pair.image() if callable(pair.image) else pair.image
                material.pictures.append(material.size(image))
        yield Pairs(source.use, **numbers)


def _alike(seeds: Sequence[Seed], times: float = 1) -> Scripts:
    """The scripts of a file, `times` as many."""
    pictures = [len(images) for seed in seeds for images in _in_view(seed)]
    tokens = [len(turn.user) / CHARACTERS for seed in seeds for turn in seed.turns]
    attacks = [seed for seed in seeds if seed.intent and seed.kind is not Kind.BENIGN and len(seed.turns) > 1]
    lengths = [len(seed.turns) for seed in seeds]
    return Scripts(len(seeds) * times, lengths, fmean(pictures), fmean(tokens), len(attacks) * times)


def _in_view(seed: Seed) -> Iterator[list[str]]:
    view: list[str] = []
    for images in seed.images_by_turn():
        view += images
        yield list(view)


def _suites(config: Config, material: Material) -> Iterator[Scripts]:
    """Those that exist before a run."""
    names, dialogues = config.bench.suites, config.bench.dialogues
    steer = sum(source.use == "bench" for source in config.seeds.sources) * (STEER in names)
    suites = [read_suite(path) for path in suite_files(names)]
    groups = Counter((suite.protocol, suite.safe_twins) for suite in suites)
    groups.update({("multi_turn", safe): steer for safe in (True, False)})
    for suite in suites:
        if dialogues:
            suite = draw_suite(suite, ceil(dialogues / groups[suite.protocol, suite.safe_twins]))
        material.of_suites += material.sizes(suite.seeds, suite.folder)
        yield _alike(suite.seeds)
    if embedded := [name for name in names if name in EMBEDDED]:  # groups of equal, freely chosen size
        size = dialogues or SANDBOX_DIALOGUES
        with TemporaryDirectory(prefix="safer-steer-cost-") as folder:
            for suite in bring_in(embedded, Path(folder), min(size, ENOUGH), config.student.max_pixels):
                material.of_suites += material.sizes(suite.seeds, suite.folder)
                yield _alike(suite.seeds, size / min(size, ENOUGH))
