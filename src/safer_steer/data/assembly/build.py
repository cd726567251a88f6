"""The stage from end to end: candidates -> no leakage, no duplicates -> rules 1 and 2 -> RL, SFT, Bench ->
balance.

Duplicates and leaks are removed before the evaluator is called, so they cost nothing. Within one side,
near-duplicates are removed only on the same picture: short user turns like "what is this?" rightly occur on
many pictures.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from safer_steer.config import Assembly, Config, RoleName
from safer_steer.data.assembly.balance import balance_of, in_words
from safer_steer.data.assembly.candidates import Candidate, Pools, shown_pictures
from safer_steer.data.assembly.near import BenchMaterial, Near, Tokens, shingles
from safer_steer.data.assembly.rules import Ruling, judge_scripts, trusted
from safer_steer.data.assembly.splits import (
    FOLDER,
    draw_bench,
    draw_rl,
    draw_sft,
    in_order,
    questions_for_rl,
    sizes,
)
from safer_steer.data.seeds.identity import bench_selection
from safer_steer.dialogue import Kind, read_seeds, to_jsonl
from safer_steer.endpoints.chat import ChatModel
from safer_steer.errors import UserError
from safer_steer.files.images import pictures_in
from safer_steer.files.store import inside, write_atomic
from safer_steer.workers import Progress


@dataclass
class LeftOut:
    """The scripts that are in no data set, each with a reason."""

    rows: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {"train": Counter(), "bench": Counter()})

    def add(self, candidate: Candidate, reason: str, detail: str = "") -> None:
        use = "bench" if candidate.bench else "train"
        self.rows.append(
            {"id": candidate.id, "kind": candidate.kind.value, "use": use, "reason": reason, "detail": detail}
        )
        self.counts[use][reason] += 1

    def as_jsonl(self) -> str:
        """The rows, by id."""
        rows = sorted(self.rows, key=lambda row: row["id"])
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


async def assemble(
    config: Config,
    folder: Path,
    ask: Callable[[RoleName], ChatModel],
    suites: Iterable[Path] = (),
    taken: Iterable[str] = (),
    progress: Progress | None = None,
) -> list[str]:
    """Write `folder/splits`: sft.jsonl, rl.jsonl, bench/<suite>.jsonl, verdicts.jsonl, left_out.jsonl,
    balance.json and balance.md.

    Args:
        ask: returns the model of a role; `evaluator` is used, unless `assembly.rules` is false.
        suites: suite files that count as bench.
        taken: names that suites of STEER-Bench must not have.
        progress: called with (finished, all) judged scripts.

    Returns:
        The config's requests that could not be met, one line each.

    Raises:
        UserError: a pool, suite or picture cannot be read, the evaluator does not respond, or a data set has
            no scripts.
    """
    settings = config.assembly
    assert settings is not None, "assemble: the config has no section `assembly`"
    out, left_out = folder / FOLDER, LeftOut()
    pools = Pools(folder, config.seeds.kinds, config.seed)
    candidates = _distinct(pools, settings, suites, left_out)
    if not candidates:
        raise UserError(
            f"{folder}/seeds: no candidates: every pool is empty, or has only what the bench has;"
            " build more seeds"
        )
    if settings.rules:
        pictures_of = pictures_in(folder, config.student.max_pixels)
        verdicts = out / "verdicts.jsonl"
        rulings = await judge_scripts(candidates, pools, ask("evaluator"), pictures_of, verdicts, progress)
    else:
        rulings = {candidate.id: trusted(candidate.kind) for candidate in candidates}

    train = [candidate for candidate in candidates if not candidate.bench]
    bench = [candidate for candidate in candidates if candidate.bench]
    rl = draw_rl(train, rulings, config)
    sft = draw_sft(train, rulings, rl, config.bootstrap.dialogues, settings.sft_benign_share)
    by_suite = draw_bench(bench, rulings, settings.bench_dialogues, set(taken))
    _explain(candidates, rulings, rl, [*sft, *rl, *chain.from_iterable(by_suite.values())], left_out)

    splits = {"sft": sft, "rl": rl, **{f"bench/{name}": suite for name, suite in by_suite.items()}}
    for name, members in splits.items():
        write_atomic(out / f"{name}.jsonl", b"".join(map(pools.row, members)))
    if config.rl.single_turn:
        questions = questions_for_rl(config, read_seeds(out / "rl.jsonl", may_be_empty=True))
        write_atomic(out / "rl.jsonl", to_jsonl(questions))
        splits["rl"] = [pools.candidate(question.kind, question) for question in questions]
    _show_pictures(folder, out / "bench", pools, chain.from_iterable(by_suite.values()))
    notes = _notes(config, train, bench, rulings, splits)
    balance = {
        "notes": notes,
        "bench": bench_selection(config) if by_suite else None,
        "splits": {name: balance_of(members) for name, members in splits.items()},
        "rules": {
            "candidates": len(rulings),
            "rule_1": sum(ruling.rule_1 for ruling in rulings.values()),
            "rule_2": sum(ruling.rule_2 for ruling in rulings.values()),
            "unjudged": _unjudged(rulings),
        },
        "left_out": {use: dict(sorted(counts.items())) for use, counts in left_out.counts.items()},
    }
    write_atomic(out / "left_out.jsonl", left_out.as_jsonl())
    write_atomic(out / "balance.json", json.dumps(balance, indent=1, ensure_ascii=False) + "\n")
    write_atomic(out / "balance.md", in_words(balance))
    held = any(source.use == "bench" for source in config.seeds.sources)
    _refuse_empty(out, "STEER-SFT", train, sft, wanted=bool(train))
    _refuse_empty(out, "STEER-RL", train, rl, wanted=bool(train))
    _refuse_empty(out, "STEER-Bench", bench, by_suite, wanted=bool(bench) or held)
    return notes


def _refuse_empty(out: Path, name: str, candidates: Sized, split: Sized, wanted: bool) -> None:
    if wanted and not split:
        raise UserError(
            f"{out}: none of {len(candidates)} candidates is left for {name};"
            " balance.md says why, and with which ratio they were drawn"
        )


def _distinct(pools: Pools, settings: Assembly, suites: Iterable[Path], left_out: LeftOut) -> list[Candidate]:
    """The candidates without leaks and near-duplicates, in draw order."""
    bench = BenchMaterial(settings.near_duplicate)
    for path in suites:
        bench.add_suite(path)
    for candidate, seed in pools:
        if candidate.bench:
            bench.add(candidate.id, seed, [candidate.picture, *shown_pictures(seed)])
    tokens: dict[str, Tokens] = {}
    by_picture: dict[str, list[Candidate]] = {}
    for candidate, seed in pools:
        script = shingles(seed.script)
        if not candidate.bench and (leak := bench.shared(candidate, seed, script)):
            left_out.add(candidate, *leak)
            continue
        if candidate.id in tokens:
            raise UserError(
                f"{pools.folder}/seeds: id {candidate.id!r} occurs twice; build the seeds again with --fresh"
            )
        tokens[candidate.id] = script
        by_picture.setdefault(candidate.picture, []).append(candidate)
    distinct = []
    for _, group in sorted(by_picture.items()):
        near = Near(settings.near_duplicate) if len(group) > 1 else None
        for candidate in in_order(group):
            if near and (first := near.find(tokens[candidate.id])):
                left_out.add(candidate, "near_duplicate", first)
                continue
            if near:
                near.add(candidate.id, tokens[candidate.id])
            distinct.append(candidate)
    return in_order(distinct)


def _explain(
    candidates: Sequence[Candidate],
    rulings: dict[str, Ruling],
    rl: Sequence[Candidate],
    members: Sequence[Candidate],
    left_out: LeftOut,
) -> None:
    ids, pairs = {candidate.id for candidate in members}, {candidate.pair for candidate in rl}
    for candidate in candidates:
        ruling = rulings[candidate.id]
        if candidate.id in ids:
            continue
        if not ruling.rule_1 or (candidate.bench and ruling.reason):
            left_out.add(candidate, ruling.reason, ruling.detail)
        elif not candidate.bench and candidate.pair in pairs:
            left_out.add(candidate, "pair_in_rl", candidate.pair)
        else:
            left_out.add(candidate, "not_drawn")


def _notes(
    config: Config,
    train: Sequence[Candidate],
    bench: Sequence[Candidate],
    rulings: dict[str, Ruling],
    splits: dict[str, list[Candidate]],
) -> list[str]:
    notes = []
    rl, size = splits["rl"], config.rl.seeds or 0
    if train and len(rl) < size:
        benign = sum(c.kind is Kind.BENIGN and rulings[c.id].rule_1 for c in train)
        risky = sum(rulings[c.id].rule_2 for c in train)
        parts = sizes(size, size, size, config.rl.benign_share)
        notes.append(
            f"STEER-RL has {len(rl)} of {size} questions: one of each pair that gave it scripts"
            if config.rl.single_turn
            else f"STEER-RL has {len(rl)} of {size} scripts: wanted {parts[0]} benign and {parts[1]} risky;"
            f" available {benign} benign and {risky} risky"
        )
    if config.bootstrap.dialogues and train and len(splits["sft"]) < config.bootstrap.dialogues:
        notes.append(
            f"STEER-SFT has {len(splits['sft'])} of the {config.bootstrap.dialogues} candidates wanted"
        )
    suites = [suite for name, suite in splits.items() if name.startswith("bench/")]
    for source in sorted(_attacked(bench) - _attacked(chain.from_iterable(suites))):
        notes.append(f"STEER-Bench has no attacks of {source}: rule 2 left none")
    if unjudged := _unjudged(rulings):
        notes.append(f"{unjudged} scripts are left out because the evaluator did not judge them")
    return notes


def _attacked(scripts: Iterable[Candidate]) -> set[str]:
    return {script.source for script in scripts if script.kind is not Kind.BENIGN}


def _unjudged(rulings: dict[str, Ruling]) -> int:
    return sum(ruling.reason == "unjudged" for ruling in rulings.values())


def _show_pictures(folder: Path, bench: Path, pools: Pools, scripts: Iterable[Candidate]) -> None:
    """Put the suites' pictures next to the suites, under the same names as in the run. Pictures are
    hard-linked if the disk allows it, else copied."""
    for image in chain.from_iterable(pools.script(script).all_images for script in scripts):
        source, copy = inside(folder, image), inside(bench, image)
        if copy.exists():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            os.link(source, copy)
            continue
        write_atomic(copy, source.read_bytes())
