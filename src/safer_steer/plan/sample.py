"""Draws a seeded sample of the config's data: pairs, stratified by the jobs done for them, and dialogues of
its suites."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from safer_steer.bench.adaptive.intents import read_intents
from safer_steer.bench.suite_copies import bring_in
from safer_steer.bench.suites import SANDBOX, SANDBOX_DIALOGUES, draw_suite, read_suite, suite_files
from safer_steer.config import Adaptive, Config
from safer_steer.data.seeds.own_scripts import own_scripts
from safer_steer.data.sources import Pair
from safer_steer.data.sources.load import pairs_of
from safer_steer.dialogue import Kind, Seed
from safer_steer.stages import STEER

ENOUGH_INTENTS = 10
"""Intents of a file that an estimate plays."""


@dataclass
class Stratum:
    """The pairs of one source that need the same jobs."""

    source: str
    use: str
    """`train` or `bench`."""
    size: int = 0
    """Number of such pairs in the source."""
    pairs: list[Pair] = field(default_factory=list)
    """The pairs drawn."""
    scripts: list[Seed] = field(default_factory=list)
    """In place of pairs: scripts drawn from `seeds.scripts`."""

    @property
    def drawn(self) -> int:
        """Number of pairs, or scripts, drawn."""
        return len(self.pairs) + len(self.scripts)

    @property
    def weight(self) -> float:
        """Number of pairs, or scripts, that each one drawn represents."""
        return self.size / self.drawn


def draw_pairs(config: Config, wanted: int) -> list[Stratum]:
    """Draw about `wanted` pairs: equally many of each source, and at least one of each stratum. Every source
    is read once; no picture is decoded.

    Raises:
        UserError: a source is missing, or a row is unusable.
    """
    each = ceil(wanted / len(config.seeds.sources))
    drawn: list[Stratum] = []
    for index, source in enumerate(config.seeds.sources):
        rng = random.Random(f"cost {config.seed} {index}")
        strata: dict[tuple[bool, bool], Stratum] = {}
        for pair in pairs_of(source, config):
            stratum = strata.setdefault(
                (pair.safe is not True, pair.answer is not None), Stratum(source.name, source.use)
            )
            stratum.size += 1
            if len(stratum.pairs) < each:
                stratum.pairs.append(pair)
            elif (
                place := rng.randrange(stratum.size)
            ) < each:  # reservoir sampling: all pairs are equally likely
                stratum.pairs[place] = pair
        total = sum(stratum.size for stratum in strata.values())
        for stratum in strata.values():
            rng.shuffle(stratum.pairs)
            del stratum.pairs[max(1, round(each * stratum.size / total)) :]
        drawn += strata.values()
    return drawn


def draw_scripts(config: Config, wanted: int) -> list[Stratum]:
    """Draw about `wanted` of the scripts in `seeds.scripts`, at least one benign and one other script if
    there are any. Raises `UserError` if the file is unusable."""
    scripts, drawn = own_scripts(config), []
    rng = random.Random(f"cost {config.seed} scripts")
    for benign in (True, False):
        alike = [seed for seed in scripts if (seed.kind is Kind.BENIGN) is benign]
        if alike:
            number = max(1, round(wanted * len(alike) / len(scripts)))
            taken = rng.sample(alike, min(number, len(alike)))
            drawn.append(Stratum("scripts", "train", len(alike), scripts=taken))
    return drawn


@dataclass
class SuiteSample:
    """Dialogues drawn from a suite of the bench."""

    folder: Path
    """Base folder of their image paths."""
    size: float
    """Number of dialogues in the suite."""
    seeds: list[Seed]

    @property
    def weight(self) -> float:
        return self.size / len(self.seeds)


def draw_dialogues(config: Config, folder: Path, wanted: int) -> list[SuiteSample]:
    """Draw about `wanted` dialogues over the suites that exist before a run, at least one of each. The
    sandbox's suites are written to `folder`.

    Raises:
        UserError: a suite is missing or unusable.
    """
    names, samples = config.bench.suites, []
    suites = [read_suite(path) for path in suite_files(names)]
    groups = Counter((suite.protocol, suite.safe_twins) for suite in suites)
    for suite in suites:
        group = groups[suite.protocol, suite.safe_twins] + (
            steer_suites(config) if suite.protocol == "multi_turn" else 0
        )
        if config.bench.dialogues:
            suite = draw_suite(suite, ceil(config.bench.dialogues / group))
        rng = random.Random(f"cost {config.seed} {suite.name}")
        samples.append(
            SuiteSample(
                suite.folder,
                len(suite.seeds),
                rng.sample(suite.seeds, min(len(suite.seeds), ceil(wanted / len(names)))),
            )
        )
    if SANDBOX in names:  # four groups of equal, freely chosen size
        size = config.bench.dialogues or SANDBOX_DIALOGUES
        drawn = min(size, ceil(wanted / len(names) / 4))
        brought = bring_in([SANDBOX], folder, drawn, config.student.max_pixels)
        samples += [
            SuiteSample(suite.folder, len(suite.seeds) * size / drawn, suite.seeds) for suite in brought
        ]
    return samples


def intents_drawn(adaptive: Adaptive, suites: list[SuiteSample]) -> list[SuiteSample]:
    """The intents of the adaptive bench: of its file, or of the attacks among the sample's suites."""
    if adaptive.intents:
        path = Path(adaptive.intents)
        intents = read_intents(path)
        return [SuiteSample(path.parent, len(intents), [*intents[:ENOUGH_INTENTS]])]
    found = []
    for sample in suites:
        seeds = [
            seed
            for seed in sample.seeds
            if seed.intent and seed.kind is not Kind.BENIGN and len(seed.turns) > 1
        ]
        if seeds:
            found.append(SuiteSample(sample.folder, sample.size, seeds))
    return found


def steer_suites(config: Config) -> int:
    """Number of STEER-Bench attack suites in the bench: one for each source with `use: bench`. There are as
    many safe suites."""
    return (
        sum(source.use == "bench" for source in config.seeds.sources) if STEER in config.bench.suites else 0
    )
