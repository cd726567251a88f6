"""Draws what SFT and RL are given, from the pools alone or as disjoint data sets.

As data sets: STEER-RL first, STEER-SFT from the rest, STEER-Bench from the scripts meant for it. These draws
are ordered by a hash of the config's seed and an id, so they are independent of the order of pools and
verdicts. RL and SFT are disjoint by pair, not only by script as in the paper. Otherwise the student would see
in RL a picture and a question it was fine-tuned on. STEER-RL therefore takes whole pairs, one after the
other, until it has enough scripts of each kind; the remaining scripts of those pairs are not used.

For the ablation "training on single turns", scripts are replaced by the questions that they were made from.
The first turns of multi-turn scripts are harmless by design, so a student trained on them would lose by
construction.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import floor
from pathlib import Path

from safer_steer.config import Config
from safer_steer.data.assembly.candidates import Candidate, without_words
from safer_steer.data.assembly.rules import Ruling
from safer_steer.data.seeds.pair_work import HARMLESS
from safer_steer.data.seeds.pools import read_pools
from safer_steer.dialogue import Kind, Seed, Turn, read_seeds, to_jsonl
from safer_steer.errors import UserError
from safer_steer.files.meta import only
from safer_steer.files.store import content_id, file_name, write_atomic
from safer_steer.metrics import AVERAGE

FOLDER = "splits"
"""The folder of the data sets in a run's folder."""
KEPT = ("pair", "question", "question_safe", "use", "category", "picture", "perturbed", "original", "answer")
"""The facts that a question takes from its script, in this order."""


def sizes(
    benign: float,
    risky: float,
    total: float | None,
    share: float,
    *,
    more_benign: bool = False,
    more_risky: bool = False,
) -> tuple[float, float]:
    """How many of the available benign and risky scripts to take: at most `total` (None: of all), `share`
    (0-1) of them benign, rounded to the nearest script.

    Args:
        more_benign: if there are too few risky ones, the share may become larger; else fewer are taken.
        more_risky: if there are too few benign ones, risky ones replace them; else fewer are taken.
    """
    whole = benign + risky if total is None else total
    if share > 0 and not more_risky:
        whole = min(whole, floor(benign / share + 1e-9))
    if share < 1 and not more_benign:
        whole = min(whole, floor(risky / (1 - share) + 1e-9))
    safe = min(benign, round(whole * share))
    return safe, min(risky, whole - safe)


def rl_scripts(config: Config, benign: float, risky: float) -> tuple[float, float]:
    """How many of the available benign and risky scripts RL takes. A data set keeps the ratio asked for."""
    free = config.assembly is None
    share = config.rl.benign_share
    return sizes(benign, risky, config.rl.seeds, share, more_benign=free, more_risky=free)


def rl_questions(config: Config, safe: float, risky: float) -> tuple[float, float]:
    """How many of the available safe and risky questions RL takes, with `rl.single_turn`."""
    return sizes(safe, risky, config.rl.seeds, config.rl.benign_share, more_risky=True)


# from the pools


def draw_from_pools(config: Config, folder: Path) -> None:
    """Write both files from `folder/seeds`: for SFT all scripts, or a draw of `bootstrap.dialogues`. Raises
    `UserError`: a pool is missing, all pools are empty, or, with `rl.single_turn`, a seed does not hold its
    question."""
    pools = read_pools(folder, config.seeds.kinds)
    if config.rl.single_turn:
        rl = questions_for_rl(config, pools)
    else:
        rl = _shuffled(pools, rl_scripts, config, f"rl {config.seed}")
    sft = pools
    if config.bootstrap.dialogues:
        order = sorted(pools, key=lambda seed: content_id("bootstrap", config.seed, seed.id))
        sft = order[: config.bootstrap.dialogues]
    write_atomic(folder / FOLDER / "sft.jsonl", to_jsonl(sft))
    write_atomic(folder / FOLDER / "rl.jsonl", to_jsonl(rl))


def questions_for_rl(config: Config, scripts: Sequence[Seed]) -> list[Seed]:
    """For `rl.single_turn`: the original questions of the scripts' pairs, as scripts of one turn."""
    return _shuffled(questions(scripts), rl_questions, config, f"single turn rl {config.seed}")


def questions(scripts: Iterable[Seed]) -> list[Seed]:
    """The question of each distinct pair among the scripts, as a script of one turn, in the order in which
    the pairs first appear.

    The kind is benign if the source says that the question is harmless, and obfuscated otherwise. Raises
    `UserError`: a script does not say which question it was made from.
    """
    by_pair: dict[str, Seed] = {}
    for script in scripts:
        meta = script.meta
        if not (meta.get("pair") and meta.get("question")):
            raise UserError(
                f"single_turn: {script.id}: its seed does not have its pair's question;"
                " build the seeds again with --fresh"
            )
        if meta["pair"] in by_pair:
            continue
        safe = meta.get("question_safe") is True
        by_pair[meta["pair"]] = Seed(
            id=f"{meta['pair']}-question",
            kind=Kind.BENIGN if safe else Kind.OBFUSCATED,
            source=script.source,
            intent=str(meta.get("intent", script.intent)),
            images=without_words(script),
            turns=[Turn(user=meta["question"], meta={"risk": HARMLESS} if safe else {})],
            meta=only(meta, *KEPT),
        )
    return list(by_pair.values())


def _shuffled(
    scripts: Sequence[Seed],
    numbers: Callable[[Config, float, float], tuple[float, float]],
    config: Config,
    order: str,
) -> list[Seed]:
    """So many benign and risky ones of the scripts, drawn and mixed; `order` is the random seed."""
    rng = random.Random(order)
    benign = [one for one in scripts if one.kind is Kind.BENIGN]
    risky = [one for one in scripts if one.kind is not Kind.BENIGN]
    rng.shuffle(benign)
    rng.shuffle(risky)
    counts = numbers(config, len(benign), len(risky))
    mix = benign[: int(counts[0])] + risky[: int(counts[1])]
    rng.shuffle(mix)
    return mix


# as data sets


def draw_rl(
    candidates: Iterable[Candidate], rulings: Mapping[str, Ruling], config: Config
) -> list[Candidate]:
    """STEER-RL: benign scripts that meet rule 1 and others that meet rule 2. Taken pair by pair, to use few
    pairs."""
    able = [candidate for candidate in candidates if _able(candidate, rulings)]
    benign = sum(candidate.kind is Kind.BENIGN for candidate in able)
    left = dict(zip((True, False), rl_scripts(config, benign, len(able) - benign), strict=True))
    scripts = []
    for candidate in sorted(able, key=lambda c: (content_id("pair", config.seed, c.pair), c.pair, c.order)):
        safe = candidate.kind is Kind.BENIGN
        if left[safe]:
            left[safe] -= 1
            scripts.append(candidate)
    return in_order(scripts)


def draw_sft(
    candidates: Iterable[Candidate],
    rulings: Mapping[str, Ruling],
    rl: Iterable[Candidate],
    total: int | None,
    share: float | None,
) -> list[Candidate]:
    """STEER-SFT's candidates: scripts that meet rule 1, from pairs not used by STEER-RL; at most `total`."""
    pairs = {candidate.pair for candidate in rl}
    able = in_order(c for c in candidates if rulings[c.id].rule_1 and c.pair not in pairs)
    if share is None:
        return able[:total]
    benign = [c for c in able if c.kind is Kind.BENIGN]
    risky = [c for c in able if c.kind is not Kind.BENIGN]
    counts = sizes(len(benign), len(risky), total, share)
    return in_order([*benign[: int(counts[0])], *risky[: int(counts[1])]])


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
        if _able(candidate, rulings):
            groups[candidate.source, candidate.kind is Kind.BENIGN].append(candidate)
    suites: dict[str, list[Candidate]] = {}
    for source, safe in sorted(groups):
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", source).strip(".") or "bench"
        name = f"{file_name(plain)}{'_safe' * safe}"
        while name in suites or name in taken or name == AVERAGE:
            name += "_"
        suites[name] = in_order(groups[source, safe])[:at_most]
    return suites


def in_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """In the order in which they are drawn."""
    return sorted(candidates, key=lambda candidate: (candidate.order, candidate.id))


def read_split(folder: Path, name: str) -> list[Seed]:
    """The scripts of `sft` or `rl` in a run. Raises `UserError`: the file is missing or has no rows."""
    path = folder / FOLDER / f"{name}.jsonl"
    seeds = read_seeds(path, may_be_empty=True)
    if not seeds:
        raise UserError(
            f"{path}: no scripts in it; build more seeds;"
            f" if the config has `assembly`, {FOLDER}/balance.md says why none was drawn"
        )
    return seeds


def _able(candidate: Candidate, rulings: Mapping[str, Ruling]) -> bool:
    ruling = rulings[candidate.id]
    return ruling.rule_1 if candidate.kind is Kind.BENIGN else ruling.rule_2
