"""What each stage will ask: closed forms of the config and of what is known of its input.

`table.py` lists which forecast is which stage's; `plan/` turns calls into tokens, money and time. Left out:
scripts that are dropped as refused, duplicate or leaking, dialogues that end early, and calls made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from statistics import fmean
from typing import NamedTuple

from safer_steer.config import Config
from safer_steer.config.bench import STEER
from safer_steer.config.data import Use
from safer_steer.dialogue import Kind
from safer_steer.prompts.base import CHAT
from safer_steer.training.draws import steps_of, too_few_seeds

Participant = str
"""A role, one of several judges (`Config.account`), or `student`."""
Numbers = dict[bool, float]
"""Numbers of benign scripts (True) and of the others."""


@dataclass(frozen=True)
class CallGroup:
    """Calls of one job that are alike."""

    who: Participant
    job: str
    calls: float
    earlier: float = 0
    """Earlier exchanges of their dialogues that they show, in all."""
    pictures: float = 0
    """Pictures that they show, in all."""
    turns: float = 0
    """Mean number of turns of the scripts that they read or write."""
    user_tokens: float | None = None
    """Mean tokens of a user turn; None for what models write."""


@dataclass(frozen=True)
class Scripts:
    """Scripts to play."""

    count: float
    lengths: Sequence[int]
    """Numbers of turns, all equally likely."""
    pictures: float = 1
    """Mean number of pictures in view of a turn."""
    user_tokens: float | None = None
    """As in `CallGroup`."""
    intents: float = 0
    """How many of them the adaptive bench may take its intents from."""

    def asks(self, who: Participant, job: str = "", times: float = 1, most: int | None = None) -> CallGroup:
        """One call for every turn, if each script is played `times` times for at most `most` turns. The job
        is called like the role, unless it is given."""
        calls = earlier = 0.0
        for length in self.lengths:
            turns = min(length, most or length)
            calls += turns * self.count * times / len(self.lengths)
            earlier += turns * (turns - 1) / 2 * self.count * times / len(self.lengths)
        return CallGroup(who, job or who, calls, earlier, calls * self.pictures, 0, self.user_tokens)

    def read(self, who: Participant, job: str, share: float = 1) -> CallGroup:
        """One call for each of a share of the scripts, which shows all of it."""
        calls = self.count * share
        return CallGroup(who, job, calls, 0, calls * self.pictures, fmean(self.lengths), self.user_tokens)


@dataclass(frozen=True)
class Pairs:
    """Pairs of one source, by what is done with them."""

    use: Use
    answered: int = 0
    """Known to be safe, with their answer: the question is the benign task, and is not probed."""
    safe: int = 0
    """The others known to be safe."""
    risky: int = 0

    @property
    def all(self) -> int:
        return self.answered + self.safe + self.risky


@dataclass(frozen=True)
class ForecastInputs:
    """What is known of a run's input, and what is assumed of its course."""

    pairs: Sequence[Pairs]
    own: Mapping[Kind, Scripts]
    """`seeds.scripts`, in place of pairs; then `pairs` are those that they were made from."""
    suites: Sequence[Scripts]
    """Of the bench, except those that the run assembles."""
    intents: float | None
    """Intents in the file of the adaptive bench; None without one."""
    success: float
    """Share of the red-team scripts tried that succeed."""
    success_turn: int | None
    """The turn at which they do; None for any turn alike."""
    keeps: float
    """Share of the scripts that keep rule 1, and of those the share that keep rule 2."""


def scripts(config: Config, facts: ForecastInputs, *uses: Use) -> dict[Kind, Scripts]:
    """The scripts that there will be for these uses."""
    if config.seeds.scripts:
        return dict(facts.own)
    numbers = dict.fromkeys(config.seeds.kinds, 0.0)
    for pairs in facts.pairs:
        if pairs.use not in uses:
            continue
        succeeding = 1 - (1 - facts.success) ** 2 if config.seeds.tries(pairs.use) else 1  # of two attempts
        each = {Kind.BENIGN: pairs.all, Kind.RED_TEAM: pairs.risky * succeeding, Kind.OBFUSCATED: pairs.risky}
        for kind in numbers:
            numbers[kind] += each[kind]
    return {kind: Scripts(count, _lengths(config)) for kind, count in numbers.items()}


def training(config: Config, facts: ForecastInputs) -> dict[bool, Scripts]:
    """Those for training: the benign ones (True), and the others."""
    groups: dict[bool, Scripts] = {}
    for kind, one in scripts(config, facts, "train").items():
        benign = kind is Kind.BENIGN
        if one.count and benign in groups:
            same = groups[benign]
            both = [*same.lengths, *one.lengths]
            groups[benign] = replace(one, count=one.count + same.count, lengths=both)
        elif one.count:
            groups[benign] = one
    return groups


def _lengths(config: Config) -> Sequence[int]:
    return range(config.seeds.min_turns, config.seeds.max_turns + 1)


class Draws(NamedTuple):
    """What `data/assembly/splits.py` draws, in numbers alone."""

    sft: Numbers
    """The scripts that Stage II plays."""
    rl: Numbers
    """The scripts, or questions, that Stage III trains on."""
    used: float
    """The share (0-1) of the pairs that STEER-RL uses, whose scripts Stage II does not get."""


def draws(config: Config, facts: ForecastInputs) -> Draws:
    """The draws for training."""
    from safer_steer.data.assembly.splits import rl_questions, rl_scripts, sizes

    groups, most, used, share = training(config, facts), config.bootstrap.dialogues, 0.0, None
    left = {benign: groups[benign].count if benign in groups else 0.0 for benign in (True, False)}
    if config.assembly:
        keeps, share = _keeps(config, facts), config.assembly.sft_benign_share
        able = left[True] * keeps, left[False] * keeps**2
        counts = rl_scripts(config, int(able[0]), int(able[1]))
        used = min(1.0, max(number / (all or inf) for number, all in zip(counts, able, strict=True)))
        left = {benign: count * keeps * (1 - used) for benign, count in left.items()}
    else:
        counts = rl_scripts(config, left[True], left[False])
    if share is None:
        total = sum(left.values())
        part = min(1.0, most / total) if most and total else 1.0
        sft = {benign: count * part for benign, count in left.items()}
    else:
        sft = _numbers(sizes(int(left[True]), int(left[False]), most, share))
    if config.rl.single_turn:
        safe, risky = (int(count * (used if config.assembly else 1)) for count in _questions(facts))
        counts = rl_questions(config, safe, risky)
    return Draws(sft, _numbers(counts), used)


def _numbers(both: tuple[float, float]) -> Numbers:
    return {True: float(both[0]), False: float(both[1])}


def _keeps(config: Config, facts: ForecastInputs) -> float:
    return facts.keeps if config.assembly and config.assembly.rules else 1.0


def _questions(facts: ForecastInputs) -> tuple[int, int]:
    """Safe and risky questions for training: one for each pair."""
    pairs = [one for one in facts.pairs if one.use == "train"]
    return sum(one.answered + one.safe for one in pairs), sum(one.risky for one in pairs)


def trajectories(config: Config, facts: ForecastInputs) -> float:
    """How many Stage III plays over all steps; 0 if the scripts do not fill one."""
    count = int(sum(draws(config, facts).rl.values()))
    if too_few_seeds(config.rl, count):
        return 0
    return steps_of(config.rl, count) * config.rl.prompts_per_step * config.rl.group_size


# The stages


def seeds(config: Config, facts: ForecastInputs) -> Iterator[CallGroup]:
    """The jobs of every pair, and a second attempt for every attack that fails, on the same caption."""
    if config.seeds.scripts:
        return
    lengths = _lengths(config)
    for pairs in facts.pairs:
        kinds, tried = config.seeds.kinds, config.seeds.tries(pairs.use)
        attacks = pairs.risky * (2 - facts.success if tried else 1.0) * (Kind.RED_TEAM in kinds)
        jobs = {
            "probe": pairs.risky + pairs.safe * (Kind.BENIGN in kinds),
            "benign": pairs.all * (Kind.BENIGN in kinds),
            "obfuscated": pairs.risky * (Kind.OBFUSCATED in kinds),
            "caption": pairs.risky * (Kind.RED_TEAM in kinds),
            **dict.fromkeys(("rewrite", "plan"), attacks),
        }
        yield from (CallGroup("generator", job, n, 0, n, fmean(lengths)) for job, n in jobs.items() if n)
        if tried and attacks:
            turns, earlier = (attacks * mean for mean in _attempt(facts, lengths))
            yield CallGroup("target", CHAT, turns, earlier, turns)
            yield CallGroup("attack_judge", "attack_judge", turns, earlier, turns)


def _attempt(facts: ForecastInputs, lengths: Sequence[int]) -> tuple[float, float]:
    """Means over attacks tried: the turns played until one succeeds or ends, and the earlier exchanges that
    they show."""
    turns = earlier = 0.0
    for length in lengths:
        end = min(facts.success_turn or length, length)
        won, before = float(end), end * (end - 1) / 2
        if facts.success_turn is None:  # the means over ends from 1 to the length
            won, before = (length + 1) / 2, (length**2 - 1) / 6
        turns += facts.success * won + (1 - facts.success) * length
        earlier += facts.success * before + (1 - facts.success) * length * (length - 1) / 2
    return turns / len(lengths), earlier / len(lengths)


def assemble(config: Config, facts: ForecastInputs) -> Iterator[CallGroup]:
    """Rule 1 of every script, and rule 2 of the risky ones that keep it."""
    if config.assembly and config.assembly.rules:
        for kind, group in scripts(config, facts, "train", "bench").items():
            yield group.read("evaluator", "script_check")
            if kind is not Kind.BENIGN:
                yield group.read("evaluator", "turn_check", facts.keeps)


def bootstrap(config: Config, facts: ForecastInputs) -> Iterator[CallGroup]:
    """Red, blue and evaluator at every turn of the scripts drawn; for the single-turn ablation, blue and
    evaluator on the questions of their pairs."""
    blue = "blue" if config.bootstrap.blue == "job" else CHAT
    sft, _, used = draws(config, facts)
    safe, risky = _questions(facts)
    missed = {True: 1.0, False: 1.0}
    """The chance that no script of a pair's is played, by kind of script."""
    for benign, group in training(config, facts).items():
        share = sft[benign] / group.count
        each = group.count / (safe + risky if benign else risky or 1)
        missed[benign] = (1 - min(1, share / (1 - used or 1))) ** each
        yield group.asks("red", times=share)
        yield group.asks("blue", blue, share)
        yield group.asks("evaluator", times=share)
    if config.bootstrap.sft.single_turn:
        questions = safe * (1 - missed[True]) + risky * (1 - missed[True] * missed[False])
        singles = Scripts((1 - used) * questions, (1,))
        yield singles.asks("blue", blue)
        yield singles.asks("evaluator")


def rl(config: Config, facts: ForecastInputs) -> Iterator[CallGroup]:
    """Student and tutor at every turn of the trajectories, of co-training on both sides; the audit at its
    share of them, and the evaluator once for each of the attacker's. Calls of a tutor of one's own are
    unknown."""
    numbers, audit, cotrain = draws(config, facts).rl, config.rl.audit, config.rl.algorithm == "cotrain"
    total = 0 if config.rl.tutor else trajectories(config, facts)
    attacks = total if cotrain and config.rl.cotrain.learns != "student" else 0
    if cotrain:
        total = attacks + (0 if config.rl.cotrain.learns == "attacker" else total)
    for benign, group in training(config, facts).items():
        if total and numbers[benign]:
            count, one = total * numbers[benign] / sum(numbers.values()), config.rl.single_turn
            group = replace(group, count=count, lengths=(1,) if one else group.lengths)
            yield group.asks("student", CHAT, most=config.rl.max_turns)
            job = "tutor_memory" if config.rl.remembers else "tutor"
            yield group.asks("tutor", job, most=config.rl.max_turns)
            if audit:
                who = config.account(audit.role, config.role(audit.role).model)
                yield group.asks(who, "tutor", audit.share, config.rl.max_turns)
            if attacks:
                yield group.read("evaluator", "script_check", attacks / total)
    if config.probes_twins and total:
        from safer_steer.bench.twin_probe import TWINS

        steps = total / (config.rl.prompts_per_step * config.rl.group_size)
        twins = Scripts(TWINS * ceil(steps / config.rl.save_steps), _lengths(config))
        yield twins.asks("student", CHAT)
        yield from _verdicts(config, twins)


def suites(config: Config, facts: ForecastInputs) -> list[Scripts]:
    """The suites of the bench, those of the run included: attacks and safe requests of each source with
    `use: bench`."""
    suites = list(facts.suites)
    sources = [pairs for pairs in facts.pairs if pairs.use == "bench"]
    if STEER in config.bench.suites and config.assembly:
        each = ceil(config.bench.dialogues / len(sources)) if config.bench.dialogues else inf
        most, keeps = min(config.assembly.bench_dialogues or inf, each), _keeps(config, facts)
        for pairs in sources:
            groups = scripts(config, replace(facts, pairs=[pairs]), "bench")
            for attacks in (True, False):
                all = sum(one.count for kind, one in groups.items() if (kind is not Kind.BENIGN) == attacks)
                if count := min(most, all * keeps ** (1 + attacks)):
                    suites.append(Scripts(count, _lengths(config), intents=count * attacks))
    return [*suites, *map(_in_pictures, suites)] if config.bench.typographic else suites


def _in_pictures(suite: Scripts) -> Scripts:
    """The same suite with a picture at every turn."""
    in_view = fmean((length + 1) / 2 for length in suite.lengths)
    return replace(suite, pictures=max(suite.pictures, in_view), intents=0)


def bench(config: Config, facts: ForecastInputs) -> Iterator[CallGroup]:
    """Student and judge at every turn of every suite, and of the adaptive bench at its longest: no breach
    ends a dialogue, and every turn that can be taken back is. All models under test are alike here."""
    models, adaptive = len(config.bench.models), config.bench.adaptive
    groups = [replace(suite, count=suite.count * models) for suite in suites(config, facts)]
    if adaptive:
        intents = facts.intents
        if intents is None:
            intents = sum(suite.intents for suite in suites(config, facts))
        each = adaptive.tries * len(config.attacker_roles()) * models
        longer = 1 + adaptive.take_backs / adaptive.turns
        attacks = Scripts(min(adaptive.at_most or inf, intents) * (each * longer), (adaptive.turns,))
        groups.append(attacks)
        yield attacks.asks("attacker", "attacker_show_text" if adaptive.show_text else "attacker")
    for dialogues in groups:
        yield dialogues.asks("student", CHAT)
        if config.bench.judged:
            yield from _verdicts(config, dialogues)


def _verdicts(config: Config, dialogues: Scripts) -> Iterator[CallGroup]:
    job = "judge_requests" if config.bench.judge_requests else "judge"
    for judge in config.models_of("judge"):
        yield dialogues.asks(config.account("judge", judge), job)
