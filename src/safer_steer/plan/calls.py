"""The estimate: runs every stage's own code on the sample and scales the counts up to the full run
(docs/how-to/cost.md)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from math import ceil, inf
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Literal

from safer_steer.bench.adaptive.attacker import by_model
from safer_steer.bench.adaptive.intents import Intent, tries_of
from safer_steer.bench.adaptive.user import AdaptiveUser, EndsAtBreach
from safer_steer.bench.judging import JudgeCritic
from safer_steer.config import Config
from safer_steer.data.assembly.candidates import Pools
from safer_steer.data.assembly.rules import Ruling, judge_scripts, trusted
from safer_steer.data.assembly.single_turns import questions
from safer_steer.data.assembly.splits import FOLDER as SPLITS
from safer_steer.data.bootstrap.rollout import EvaluatorCritic, blue_expert, roll_out
from safer_steer.data.seeds.attempts import outcome
from safer_steer.data.seeds.own_scripts import brought_in
from safer_steer.data.seeds.pair_work import PairWork
from safer_steer.data.seeds.pools import key_of, kinds_of
from safer_steer.dialogue import Kind, Seed, to_jsonl
from safer_steer.endpoints.chat import ChatAssistant
from safer_steer.episode import Assistant, Script, play
from safer_steer.files.images import PicturesOf, pictures_in
from safer_steer.files.store import Journal, write_atomic
from safer_steer.plan.answers import Answers
from safer_steer.plan.assumptions import Assumptions
from safer_steer.plan.counting import CallCounts, Meter
from safer_steer.plan.draw_sizes import (
    Group,
    Groups,
    Numbers,
    chance_of_a_pair,
    pairs_used,
    questions_drawn,
    scripts_drawn,
    trajectories,
)
from safer_steer.plan.sample import (
    Stratum,
    SuiteSample,
    draw_dialogues,
    draw_pairs,
    draw_scripts,
    intents_drawn,
    steer_suites,
)
from safer_steer.training.tutor import TutorCritic


@dataclass
class Estimate:
    """The calls of a full run, by stage."""

    config: Config
    assumed: Assumptions
    stages: dict[str, CallCounts] = field(default_factory=dict)
    """In pipeline order; stages without calls are omitted."""
    pairs: tuple[int, int] = (0, 0)
    """Pairs in the sources, and in the sample."""
    dialogues: tuple[int, int] = (0, 0)
    """Dialogues in the suites, and in the sample."""
    scripts: dict[Kind, float] = field(default_factory=dict)
    """Scripts made by Stage I."""
    trajectories: float = 0
    """Trajectories played by Stage III."""
    longest: int = 0
    """Turns of the longest trajectory in the sample."""
    tokenized: set[str] = field(default_factory=set)
    """Participants whose texts a tokenizer counts."""
    notes: list[str] = field(default_factory=list)
    """What is not included in the estimate, or would fail."""


def estimate(config: Config, assumed: Assumptions | None = None) -> Estimate:
    """Count the calls a run of this config would make. It makes no calls, needs no API key, and writes only
    to a temporary folder.

    Raises:
        UserError: a source or a suite is missing or unusable.
    """
    assumed = assumed or Assumptions()
    with TemporaryDirectory(prefix="safer-steer-cost-") as folder:
        draw = draw_scripts if config.seeds.scripts else draw_pairs
        strata = draw(config, assumed.sample)
        suites = draw_dialogues(config, Path(folder) / "bench", assumed.sample)
        return asyncio.run(_Sampling(config, assumed, Path(folder)).run(strata, suites))


@dataclass
class _Scripts:
    """The scripts made from a stratum, in their own folder laid out like a run's."""

    folder: Path
    stratum: Stratum
    seeds: list[Seed]
    rulings: dict[str, Ruling] = field(default_factory=dict)

    def of(self, benign: bool) -> list[Seed]:
        return [seed for seed in self.seeds if (seed.kind is Kind.BENIGN) is benign]

    def able(self, seed: Seed) -> bool:
        """Whether the script is eligible for STEER-RL or STEER-Bench."""
        return self.rulings[seed.id].rule_1 if seed.kind is Kind.BENIGN else self.rulings[seed.id].rule_2

    def asked(self) -> _Scripts:
        """The original questions instead of the scripts."""
        found = questions(self.seeds)
        return _Scripts(self.folder, self.stratum, found, {seed.id: trusted(seed.kind) for seed in found})


class _Sampling:
    """Plays the sample stage by stage. The calls of a stage for a stratum are taken from the meter and
    multiplied by the stratum's weight."""

    def __init__(self, config: Config, assumed: Assumptions, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.meter = Meter(config, Answers(config, assumed))
        self.found = Estimate(config, assumed)

    async def run(self, strata: list[Stratum], suites: list[SuiteSample]) -> Estimate:
        found = self.found
        made = [await self._seeds(stratum, self.folder / str(index)) for index, stratum in enumerate(strata)]
        for scripts in made:
            await self._assemble(scripts)
        training = [scripts for scripts in made if scripts.stratum.use == "train"]
        groups = _groups(training)
        sft, rl = scripts_drawn(self.config, groups)
        for benign, group in groups.items():
            if group.scripts:
                await self._bootstrap(training, benign, sft[benign] / group.scripts)
        used = pairs_used(groups, rl) if self.config.assembly else 0.0
        if self.config.bootstrap.sft.single_turn:
            chances = {
                benign: sft[benign] / group.scripts if group.scripts else 0.0
                for benign, group in groups.items()
            }
            await self._single_turns(training, chances, used)
        if self.config.rl.single_turn:
            training = [made.asked() for made in training]
            groups = _groups(training)
            rl = questions_drawn(self.config, groups, used)
        found.trajectories = trajectories(self.config, rl)
        if self.config.rl.tutor:
            found.notes.append(
                f"Stage III is not included: the calls of your own tutor ({self.config.rl.tutor}) are"
                " unknown."
            )
        elif not found.trajectories:
            found.notes.append(
                f"Stage III would not start: about {sum(rl.values()):.0f} scripts are fewer than"
                " rl.prompts_per_step."
            )
        else:
            for benign, group in groups.items():
                if group.scripts:
                    await self._rl(
                        training, benign, found.trajectories * rl[benign] / sum(rl.values()) / group.scripts
                    )
        await self._bench([*suites, *self._steer_bench(made)])
        found.pairs = sum(stratum.size for stratum in strata), sum(stratum.drawn for stratum in strata)
        found.stages = {stage: tally for stage, tally in found.stages.items() if tally}
        found.tokenized = set(self.meter.tokenized)
        return found

    def _add(self, stage: str, times: float) -> None:
        self.found.stages.setdefault(stage, CallCounts()).add(self.meter.take(), times)

    def _pictures(self, folder: Path) -> PicturesOf:
        return pictures_in(folder, self.config.student.max_pixels)

    def _student(
        self, pictures_of: PicturesOf, participant: Literal["student", "target"] = "student"
    ) -> Assistant:
        """Stands in for the student, whose prompt requests no answer format."""
        return ChatAssistant(self.meter.ask(participant), pictures_of, system=self.config.student.system)

    async def _seeds(self, stratum: Stratum, folder: Path) -> _Scripts:
        """Stage I for the stratum's pairs; scripts of one's own are taken as they are."""
        made = (
            _Scripts(folder, stratum, [brought_in(self.config, folder, seed) for seed in stratum.scripts])
            if stratum.scripts
            else await self._made(stratum, folder)
        )
        for seed in made.seeds:
            self.found.scripts[seed.kind] = self.found.scripts.get(seed.kind, 0) + stratum.weight
        return made

    async def _made(self, stratum: Stratum, folder: Path) -> _Scripts:
        config, pictures_of = self.config, self._pictures(folder)
        target = self._student(pictures_of, "target")
        if config.role("target").who != "student":
            target = ChatAssistant(
                self.meter.ask("target"),
                pictures_of,
                system=config.student.system,
                format=config.student.format,
            )
        work = PairWork(config, folder, self.meter.ask, target)
        with Journal(folder / "journal.jsonl") as journal:
            for pair in stratum.pairs:
                await work.do(pair, journal)
            keys = [
                key_of(pair, kind) for pair in stratum.pairs for kind in kinds_of(pair, config.seeds.kinds)
            ]
            rows = [row for key in keys if (row := outcome(journal.rows, key)) and "made" in row]
        self._add("seeds", stratum.weight)
        return _Scripts(folder, stratum, [Seed.model_validate(row["made"]["seed"]) for row in rows])

    async def _assemble(self, made: _Scripts) -> None:
        """Check the rules for every script. Duplicates and leaks, which assembly drops before, are not
        estimated."""
        made.rulings = {seed.id: trusted(seed.kind) for seed in made.seeds}
        if self.config.assembly and self.config.assembly.rules and made.seeds:
            self._write_pools(made.folder, made.seeds)
            pools = Pools(made.folder, self.config.seeds.kinds, self.config.seed)
            candidates = [candidate for candidate, _ in pools]
            evaluator = self.meter.ask("evaluator")
            made.rulings = await judge_scripts(
                candidates, pools, evaluator, self._pictures(made.folder), made.folder / "verdicts.jsonl"
            )
            self._add("assemble", made.stratum.weight)

    async def _bootstrap(self, training: list[_Scripts], benign: bool, share: float) -> None:
        """Stage II on a group of scripts, of which it plays a share. The questions of the single-turn
        ablation are counted separately."""
        several = self.config.bootstrap.sft.model_copy(update={"single_turn": False})
        whole = self.config.bootstrap.model_copy(update={"dialogues": None, "sft": several})
        config = self.config.model_copy(update={"assembly": None, "bootstrap": whole})
        for made in training:
            if made.of(benign):
                write_atomic(made.folder / SPLITS / "sft.jsonl", to_jsonl(made.of(benign)))
                await roll_out(config, made.folder, self.meter.ask)
                self._add("bootstrap", share * made.stratum.weight)

    async def _single_turns(self, training: list[_Scripts], chances: Numbers, used: float) -> None:
        """The questions of the pairs that Stage II plays, answered and scored once. `chances` are the
        probabilities that a benign, or another, script is played."""
        for made in (made for made in training if made.seeds):
            pictures_of = self._pictures(made.folder)
            blue = blue_expert(self.config, self.meter.ask("blue"), pictures_of)
            evaluator = EvaluatorCritic(self.meter.ask("evaluator"), self.config.student.format, pictures_of)
            of_pair: defaultdict[str, list[float]] = defaultdict(list)
            for seed in made.seeds:
                of_pair[seed.meta["pair"]].append(chances[seed.kind is Kind.BENIGN])
            for question in questions(made.seeds):
                await play(question, Script(), blue, evaluator)
            share = fmean(chance_of_a_pair(scripts, used) for scripts in of_pair.values())
            self._add("bootstrap", share * made.stratum.weight)

    def _write_pools(self, folder: Path, seeds: list[Seed]) -> None:
        for kind in self.config.seeds.kinds:
            write_atomic(
                folder / "seeds" / f"{kind.value}.jsonl",
                to_jsonl(seed for seed in seeds if seed.kind is kind),
            )

    async def _rl(self, training: list[_Scripts], benign: bool, times: float) -> None:
        """The dialogues of Stage III, `times` for each script. The trainer makes no calls and is omitted."""
        rl, student = self.config.rl, self.config.student
        for made in training:
            pictures_of = self._pictures(made.folder)
            tutor = TutorCritic(self.meter.ask("tutor"), student.format, pictures_of, rl.adapts)
            for seed in made.of(benign):
                dialogue = await play(seed, Script(), self._student(pictures_of), tutor, rl.max_turns)
                self.found.longest = max(self.found.longest, len(dialogue.turns))
            self._add("rl", times * made.stratum.weight)

    async def _bench(self, suites: list[SuiteSample]) -> None:
        """The bench. All its models give the same answers here, so one is played and its counts are
        multiplied."""
        for sample in suites:
            pictures_of = self._pictures(sample.folder)
            judge = self.meter.ask("judge") if self.config.bench.judged else None
            critic = JudgeCritic(judge, self.config.student.format, pictures_of) if judge else None
            for seed in sample.seeds:
                await play(seed, Script(), self._student(pictures_of), critic)
            self._add("bench", sample.weight * len(self.config.bench.models))
        await self._attacks(suites)
        self.found.dialogues = (
            round(sum(sample.size for sample in suites)),
            sum(len(sample.seeds) for sample in suites),
        )

    async def _attacks(self, suites: list[SuiteSample]) -> None:
        """The adaptive bench, at its longest: no breach ends a dialogue, and all turns that can be taken back
        are. The models under test are alike here, and so are those that attack."""
        config, adaptive = self.config, self.config.bench.adaptive
        if adaptive is None:
            return
        if adaptive.own:
            self.found.notes.append(
                f"The dialogues of your own attackers ({', '.join(adaptive.own)}) are not included."
            )
        samples = intents_drawn(adaptive, suites)
        most = min(adaptive.at_most or inf, sum(sample.size for sample in samples))
        dialogues = most * adaptive.tries * len(config.attacker_roles()) * len(config.bench.models)
        drawn = sum(len(sample.seeds) for sample in samples)
        for sample in samples:
            pictures_of, format = self._pictures(sample.folder), config.student.format
            judge = JudgeCritic(self.meter.ask("judge"), format, pictures_of) if config.bench.judged else None
            user = AdaptiveUser(by_model, lambda: self.meter.ask("attacker"), adaptive, format, pictures_of)
            intents = [Intent.model_validate(seed.model_dump()).bare() for seed in sample.seeds]
            for seed in tries_of(intents, "attacker", adaptive.turns, 1):
                await play(seed, user, self._student(pictures_of), EndsAtBreach(judge) if judge else None)
            self._add("bench", dialogues / drawn)

    def _steer_bench(self, made: list[_Scripts]) -> list[SuiteSample]:
        """The STEER-Bench suites used by the bench: attacks and safe requests of each source with
        `use: bench`."""
        if not steer_suites(self.config) or self.config.assembly is None:
            return []
        suites: defaultdict[tuple[str, bool], list[SuiteSample]] = defaultdict(list)
        for scripts in made:
            for benign in (False, True):
                seeds = [seed for seed in scripts.of(benign) if scripts.able(seed)]
                if seeds and scripts.stratum.use == "bench":
                    suites[scripts.stratum.source, benign].append(
                        SuiteSample(scripts.folder, scripts.stratum.weight * len(seeds), seeds)
                    )
        dialogues = self.config.bench.dialogues
        most = min(
            self.config.assembly.bench_dialogues or inf,
            ceil(dialogues / steer_suites(self.config)) if dialogues else inf,
        )
        for parts in suites.values():
            share = min(1.0, most / sum(part.size for part in parts))
            for part in parts:
                part.size *= share
        return [part for parts in suites.values() for part in parts]


def _groups(training: list[_Scripts]) -> Groups:
    groups = {True: Group(), False: Group()}
    for made in training:
        for seed in made.seeds:
            group, weight = groups[seed.kind is Kind.BENIGN], made.stratum.weight
            group.scripts += weight
            group.rule_1 += weight * made.rulings[seed.id].rule_1
            group.able += weight * made.able(seed)
    return groups
