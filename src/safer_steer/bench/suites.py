"""Suites: the scripts a model is measured on. Each is one JSONL file with its pictures beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from safer_steer.bench.journals import BEGINS, journal_of, kind_of
from safer_steer.config.bench import EMBEDDED
from safer_steer.config.keys import NOT_FILES
from safer_steer.data.sources.load import draw
from safer_steer.dialogue import Kind, Seed
from safer_steer.errors import UserError, refuse
from safer_steer.files.images import PictureError, Trial, check_header, check_whole
from safer_steer.files.script_file import read_scripts
from safer_steer.files.store import PathError, inside
from safer_steer.metrics import AVERAGE, ProtocolName

SANDBOX = "sandbox"
"""The name in `bench.suites` that stands for the embedded suites."""
SANDBOX_DIALOGUES = 60
"""So many of them are marked, and so many unmarked, where the config says nothing."""


@dataclass(frozen=True)
class Suite:
    """Scripts that are reported under one name."""

    name: str
    seeds: list[Seed]
    folder: Path
    """What the seeds' image paths are relative to."""
    safe_twins: bool
    """Every script is a safe request: refusals are over-refusals, and the suite stays out of the average."""
    scaled: int = 0
    """Pictures of it that were scaled down when it was copied into the run."""
    embedded: bool = False
    """One of the sandbox's, whose scripts are in random order."""
    drawn_from: Suite | None = None
    """The whole suite, if this one is a draw of it."""
    left_out: str = ""
    """Which scripts of it have no typographic variant, and why; "" for none."""

    @property
    def protocol(self) -> ProtocolName:
        """`single_turn` where no script has a second turn."""
        return "single_turn" if all(len(seed.turns) == 1 for seed in self.seeds) else "multi_turn"

    def journal(self, folder: Path) -> Path:
        """Where a model's dialogues on this suite are kept, in its folder `bench/<model>`."""
        return journal_of(folder, self.protocol, self.name)


def large_pictures(suite: Suite, max_pixels: int) -> set[str]:
    """Paths of the pictures with more than `max_pixels` pixels, by their headers.

    Raises:
        UserError: a picture cannot be used.
    """
    large = set()
    for image in {image for seed in suite.seeds for image in seed.all_images}:
        path = inside(suite.folder, image)
        width, height = check_header(path, str(path))
        if width * height > max_pixels:
            large.add(image)
    return large


def draw_suite(suite: Suite, at_most: int) -> Suite:
    """The suite, or a draw of `at_most` of its scripts, balanced over their categories. The draw is the same
    in every run, whatever its seed, so that runs can be compared; a larger one includes a smaller one. Of an
    attack suite and that of its twins (`meta.twin`), the same pairs are drawn. Its protocol stays: of a suite
    with scripts of several turns, at least one such is drawn."""

    def pair(seed: Seed) -> str:
        return min(seed.id, seed.meta.get("twin", seed.id))

    seeds = draw(suite.seeds, pair, at_most, 0, lambda seed: seed.category)
    if len(seeds) == len(suite.seeds):
        return suite
    if all(len(seed.turns) == 1 for seed in seeds) and suite.protocol == "multi_turn":
        seeds[-1] = min((seed for seed in suite.seeds if len(seed.turns) > 1), key=pair)
    return replace(suite, seeds=seeds, drawn_from=suite)


def read_suite(path: Path) -> Suite:
    """Read `NAME.jsonl`; rows of kind `benign` make it a suite of safe twins.

    Raises:
        UserError: see `read_scripts`; or safe and attack scripts are mixed.
    """
    if path.stem == AVERAGE:
        raise UserError(f"{path}: `average` is the summary's name for the mean over suites; rename the file")
    seeds = read_scripts(path)
    twins = [seed.kind is Kind.BENIGN for seed in seeds]
    if any(twins) and not all(twins):
        raise UserError(
            f"{path}: {seeds[twins.index(True)].id} is benign and {seeds[twins.index(False)].id} is not;"
            " a suite has one or the other: make two files of it"
        )
    suite = Suite(path.stem, seeds, path.parent, all(twins))
    kind = kind_of(suite.journal(path.parent).stem)
    if kind != suite.protocol:
        what = "attackers" if kind == "adaptive" else "suites of single turns"
        raise UserError(
            f"{path}: journals that begin with {BEGINS[kind]} are those of {what}; rename the file"
        )
    return suite


def suite_files(names: Sequence[str]) -> list[Path]:
    """Those of `bench.suites` that are files."""
    return [Path(name) for name in names if name not in NOT_FILES]


def embedded_names(names: Sequence[str]) -> list[str]:
    """What the embedded suites among `bench.suites` are called."""
    from safer_steer.sandbox.suites import SUITES

    return [suite for name in names if name in EMBEDDED for suite in SUITES[name]]


def taken_names(names: Sequence[str]) -> set[str]:
    """What the suites are called, the run's own apart."""
    return {path.stem for path in suite_files(names)} | set(embedded_names(names))


def read_suites(names: Sequence[str], trial: Trial | None = None) -> list[Suite]:
    """The suites that are files, every picture decoded once and tried on the student. Nothing is written.

    Raises:
        UserError: see `read_suite`; or two suites have one name, or a picture cannot be used.
    """
    suites = suites_named(names)
    decode_pictures(suites, trial)
    return suites


def decode_pictures(suites: Sequence[Suite], trial: Trial | None = None) -> None:
    """Decode each picture once, and try it on the student. Raises `UserError`: those that cannot be used."""
    paths, unusable = set[Path](), []
    for suite in suites:
        for seed, image in ((one, image) for one in suite.seeds for image in one.all_images):
            path = suite.folder / image
            if path in paths:
                continue
            paths.add(path)
            try:
                check_header(file := inside(suite.folder, image), str(path))
                check_whole(file.read_bytes(), str(path), trial)
            except (PictureError, PathError, OSError) as error:
                unusable.append(f"{suite.folder / suite.name}.jsonl: {seed.id}: {error}")
    refuse(unusable)


@contextmanager
def named(suite: Suite, seed: Seed) -> Iterator[None]:
    """Names the suite's file and the script in an error about a picture."""
    try:
        yield
    except (UserError, OSError) as error:
        raise UserError(f"{suite.folder / suite.name}.jsonl: {seed.id}: {error}") from None


def suites_named(names: Sequence[str]) -> list[Suite]:
    """The suites that are files, each with a name of its own."""
    suites = [read_suite(path) for path in suite_files(names)]
    counts = Counter([*(suite.name for suite in suites), *embedded_names(names)])
    for suite in suites:
        path = suite.folder / f"{suite.name}.jsonl"
        if counts[suite.name] > 1:
            raise UserError(f"{path}: another suite is called {suite.name!r} too; rename the file")
    return suites
