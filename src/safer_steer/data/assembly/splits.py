"""Draws the data sets: STEER-RL first, STEER-SFT from the rest, STEER-Bench from the scripts meant for it.

All draws are ordered by a hash of the config's seed and an id, so they are independent of the order of pools
and verdicts. RL and SFT are disjoint by pair, not only by script as in the paper. Otherwise the student would
see in RL a picture and a question it was fine-tuned on. STEER-RL therefore takes whole pairs, one after the
other, until it has enough scripts of each kind; the remaining scripts of those pairs are not used. If a ratio
is set and one side runs short, the other side is reduced too.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from math import floor
from pathlib import Path

from safer_steer.config import Config
from safer_steer.data.assembly.candidates import Candidate
from safer_steer.data.assembly.rules import Ruling
from safer_steer.data.assembly.single_turns import draw_questions, questions
from safer_steer.data.seeds.pools import read_pools
from safer_steer.dialogue import Kind, Seed, read_seeds, to_jsonl
from safer_steer.errors import UserError
from safer_steer.files.store import content_id, write_atomic
from safer_steer.metrics import AVERAGE

FOLDER = "splits"
"""The folder of the data sets in a run's folder."""


def sizes(benign: int, risky: int, total: int | None, share: float) -> tuple[int, int]:
    """How many of the available benign and risky scripts to take: at most `total`, with `share` (0-1) of them
    benign, rounded to the nearest script."""
    whole = benign + risky if total is None else total
    if share > 0:
        whole = min(whole, floor(benign / share + 1e-9))
    if share < 1:
        whole = min(whole, floor(risky / (1 - share) + 1e-9))
    wanted = round(whole * share)
    return wanted, whole - wanted


def draw_rl(
    candidates: Iterable[Candidate], rulings: Mapping[str, Ruling], total: int, share: float, seed: int
) -> list[Candidate]:
    """STEER-RL: benign scripts that meet rule 1 and others that meet rule 2. Taken pair by pair, to use few
    pairs."""
    able = [candidate for candidate in candidates if _able(candidate, rulings)]
    benign = sum(c.kind is Kind.BENIGN for c in able)
    left = dict(zip((True, False), sizes(benign, len(able) - benign, total, share), strict=True))
    able.sort(key=lambda c: (content_id("pair", seed, c.pair), c.pair, c.order))
    drawn = []
    for candidate in able:
        safe = candidate.kind is Kind.BENIGN
        if left[safe]:
            left[safe] -= 1
            drawn.append(candidate)
    return _in_order(drawn)


def draw_sft(
    candidates: Iterable[Candidate],
    rulings: Mapping[str, Ruling],
    rl: Iterable[Candidate],
    total: int | None,
    share: float | None,
) -> list[Candidate]:
    """STEER-SFT's candidates: scripts that meet rule 1, from pairs not used by STEER-RL; at most `total`."""
    taken = {candidate.pair for candidate in rl}
    able = _in_order(c for c in candidates if rulings[c.id].rule_1 and c.pair not in taken)
    if share is None:
        return able[:total]
    benign = [c for c in able if c.kind is Kind.BENIGN]
    risky = [c for c in able if c.kind is not Kind.BENIGN]
    wanted = sizes(len(benign), len(risky), total, share)
    return _in_order([*benign[: wanted[0]], *risky[: wanted[1]]])


def draw_bench(
    candidates: Iterable[Candidate],
    rulings: Mapping[str, Ruling],
    at_most: int | None,
    taken: Collection[str],
) -> dict[str, list[Candidate]]:
    """STEER-Bench by suite: `<source>` holds the source's scripts that meet rule 2, `<source>_safe` its
    benign scripts that meet rule 1. Each suite has at most `at_most` scripts.

    `taken` are the names of other suites. A suite with such a name gets an underscore appended.
    """
    groups: defaultdict[tuple[str, bool], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        safe = candidate.kind is Kind.BENIGN
        if _able(candidate, rulings):
            groups[candidate.source, safe].append(candidate)
    suites: dict[str, list[Candidate]] = {}
    for source, safe in sorted(groups):
        name = f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', source).strip('.') or 'bench'}{'_safe' * safe}"
        while name in suites or name in taken or name == AVERAGE:
            name += "_"
        suites[name] = _in_order(groups[source, safe])[:at_most]
    return suites


def same_picture(candidates: Iterable[Candidate]) -> Iterable[Sequence[Candidate]]:
    """The candidates grouped by picture, each group in draw order. Pictures with only one candidate are left
    out."""
    ordered = sorted(candidates, key=lambda c: (c.picture, c.order, c.id))
    return (group for _, found in groupby(ordered, key=lambda c: c.picture) if len(group := list(found)) > 1)


def read_split(folder: Path, name: str) -> list[Seed]:
    """The scripts of `sft` or `rl` in a run's folder.

    Raises:
        UserError: the file is missing or has no rows.
    """
    path = folder / FOLDER / f"{name}.jsonl"
    seeds = read_seeds(path, may_be_empty=True)
    if not seeds:
        raise UserError(
            f"{path}: no scripts in it; build more seeds;"
            f" if the config has `assembly`, {FOLDER}/balance.md says why none was drawn"
        )
    return seeds


def _able(candidate: Candidate, rulings: Mapping[str, Ruling]) -> bool:
    """Whether a benign script meets rule 1, or another one rule 2."""
    ruling = rulings[candidate.id]
    return ruling.rule_1 if candidate.kind is Kind.BENIGN else ruling.rule_2


def _in_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda c: (c.order, c.id))


def draw_from_pools(config: Config, folder: Path) -> None:
    """Write both files from `folder/seeds`.

    Raises:
        UserError: a pool is missing, all pools are empty, or, with `rl.single_turn`, a seed does not hold its
            question.
    """
    pools = read_pools(folder, config.seeds.kinds)
    rl = questions_for_rl(config, pools) if config.rl.single_turn else _for_rl(config, pools)
    write_atomic(folder / FOLDER / "sft.jsonl", to_jsonl(_for_sft(config, pools)))
    write_atomic(folder / FOLDER / "rl.jsonl", to_jsonl(rl))


def questions_for_rl(config: Config, scripts: Sequence[Seed]) -> list[Seed]:
    """For `rl.single_turn`: the original questions of the scripts' pairs, as scripts of one turn."""
    return draw_questions(questions(scripts), config.rl.seeds, config.rl.benign_share, config.seed)


def rl_numbers(benign: float, risky: float, total: float | None, share: float) -> tuple[float, float]:
    """How many of the available benign and risky scripts RL takes.

    Args:
        total: number of scripts in all; None for all available.
        share: the wanted share of benign scripts, 0-1. If there are too few, risky scripts replace them.
    """
    whole = benign + risky if total is None else total
    wanted = min(benign, round(whole * share))
    return wanted, min(risky, whole - wanted)


def _for_sft(config: Config, pools: Sequence[Seed]) -> list[Seed]:
    """All scripts, or a seeded draw of `bootstrap.dialogues`."""
    if not config.bootstrap.dialogues:
        return list(pools)
    drawn = sorted(pools, key=lambda seed: content_id("bootstrap", config.seed, seed.id))
    return drawn[: config.bootstrap.dialogues]


def _for_rl(config: Config, pools: Sequence[Seed]) -> list[Seed]:
    """`rl.seeds` scripts, `rl.benign_share` of them benign, in a seeded order."""
    rng = random.Random(f"rl {config.seed}")
    benign = [seed for seed in pools if seed.kind is Kind.BENIGN]
    risky = [seed for seed in pools if seed.kind is not Kind.BENIGN]
    for pool in (benign, risky):
        rng.shuffle(pool)
    numbers = rl_numbers(len(benign), len(risky), config.rl.seeds, config.rl.benign_share)
    chosen = benign[: int(numbers[0])] + risky[: int(numbers[1])]
    rng.shuffle(chosen)
    return chosen
