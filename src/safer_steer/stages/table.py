"""The stages of a run, as values: what each is called, reads, needs, writes and asks. Everything else looks
them up here.

A stage's work is a function of the same name in `pipeline.py`. Stages meet only through the files they write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from safer_steer.config import Config, ModelName, RoleName
from safer_steer.config.bench import STEER
from safer_steer.config.keys import NOT_FILES
from safer_steer.files.inputs import Holds, Input
from safer_steer.prompts.base import CHAT
from safer_steer.stages import checks, forecast
from safer_steer.stages.forecast import CallGroup, ForecastInputs


@dataclass(frozen=True)
class Stage:
    """One stage. What depends on the config is a function of it."""

    name: str
    summary: str
    """One line for `safer-steer --help`."""
    writes: tuple[str, ...]
    """Files and folders in the run's folder; nobody else writes there."""
    prompts: tuple[str, ...] = ()
    """Prompts it may ask with; their hashes go into the manifest."""
    probed: Callable[[Config], tuple[str, ...]] = lambda config: ()
    """Further prompts that its gates ask with."""
    roles: tuple[RoleName, ...] = ()
    """Roles it may ask."""
    idle: Callable[[Config], tuple[RoleName, ...]] = lambda config: ()
    """Those of `roles` that this config leaves without work."""
    needs: Callable[[Config], tuple[str, ...]] = lambda config: ()
    """Stages that must be finished before."""
    inputs: Callable[[Config], tuple[Input, ...]] = lambda config: ()
    """What it reads from outside the run's folder. Their hashes go into the manifest."""
    counts: Callable[[Config], tuple[str, ...]] = lambda config: ()
    """Files of rows, as patterns in the run's folder; their rows are counted when the stage ends."""
    facts: Callable[[Config], dict[str, str]] = lambda config: {}
    """What else the manifest says of it."""
    checks: tuple[Callable[[Config], str], ...] = ()
    """Why it would not start, by the config alone: each gives the line for the user, or ""."""
    warns: Callable[[Config], str] = lambda config: ""
    """What the user should know before it starts, in one line, or ""."""
    forecast: Callable[[Config, ForecastInputs], Iterable[CallGroup]] = lambda config, facts: ()
    """The calls it will make."""
    chain: tuple[str, ...] = ()
    """Prompts that wait for one another within a pair or dialogue; the other calls run beside them."""
    student: bool = False
    """Whether it loads the student."""
    trains: bool = False
    """Whether it trains the student."""

    def asks(self, config: Config) -> tuple[RoleName, ...]:
        """The roles that it asks under this config."""
        idle = self.idle(config)
        return tuple(role for role in self.roles if role not in idle)

    def asked_with(self, config: Config) -> tuple[str, ...]:
        """The prompts that it may ask with under this config."""
        return (*self.prompts, *self.probed(config)) if self.asks(config) else ()

    def refusals(self, config: Config) -> Iterator[str]:
        """Why it would not start under this config, one line each. Raises `UserError` as its checks do."""
        return filter(None, (check(config) for check in self.checks))


TRAINED_BY: dict[ModelName, tuple[str, ...]] = {"base": (), "sft": ("sft",), "safer_steer": ("rl",)}
"""The stages that train each model of the bench."""


def _untried(config: Config) -> tuple[RoleName, ...]:
    """Red-team scripts are planned, but tried on no target, where none is for training or for a filter that
    was asked for. Scripts of one's own are neither written nor tried."""
    if config.seeds.scripts:
        return ("generator", "target", "attack_judge")
    return () if config.seeds.tries_any else ("target", "attack_judge")


def _rl_idle(config: Config) -> tuple[RoleName, ...]:
    """A tutor of one's own is no role, one role at most audits, a probe's twins are judged, and co-training
    has the evaluator check the attacker's turns."""
    at_work = [config.rl.audit and config.rl.audit.role, None if config.rl.tutor else "tutor"]
    at_work += ["judge"] if config.probes_twins else []
    at_work += ["evaluator"] if config.rl.algorithm == "cotrain" else []
    return tuple(role for role in STAGES["rl"].roles if role not in at_work)


def _bench_idle(config: Config) -> tuple[RoleName, ...]:
    judge: tuple[RoleName, ...] = () if config.bench.judged else ("judge",)
    return judge if config.attacker_roles() else (*judge, "attacker")


def _bench_needs(config: Config) -> tuple[str, ...]:
    assembled = ("assemble",) if STEER in config.bench.suites else ()
    return (*assembled, *(stage for name in config.bench.models for stage in TRAINED_BY[name]))


def _student(config: Config) -> tuple[Input, ...]:
    """The base student. The shipped one is part of this package."""
    student = config.student
    weights = () if student.model == "sandbox" else (Input(student.base, "weights"),)
    return (*weights, *_files("template", student.chat_template))


def _files(holds: Holds, *paths: str | None) -> tuple[Input, ...]:
    return tuple(Input(path, holds) for path in paths if path and path not in NOT_FILES)


def _seeds_inputs(config: Config) -> tuple[Input, ...]:
    seeds = config.seeds
    pairs = [Input(source.path, "pairs", source) for source in seeds.sources if source.path]
    pictures = _files("pictures", *(source.images for source in seeds.sources))
    plays = "target" not in _untried(config) and config.student_is_target
    return (*_files("scripts", seeds.scripts), *pairs, *pictures, *(_student(config) if plays else ()))


def _rl_inputs(config: Config) -> tuple[Input, ...]:
    base = config.rl.start_from == "base" or config.student.lora_rank
    cotrain = config.rl.cotrain
    adapters = _files("weights", cotrain.attacker, cotrain.student)
    modules = _files("module", config.rl.tutor, config.rl.reward)
    return (*modules, *adapters, *(_student(config) if base else ()))


def _bench_inputs(config: Config) -> tuple[Input, ...]:
    bench = config.bench
    base = "base" in bench.models or config.student.lora_rank
    inputs = (
        *_files("scripts", *bench.suites),
        *_files("questions", *bench.capability),
        *(_student(config) if base else ()),
    )
    if bench.adaptive is None:
        return inputs
    attackers = (*_files("weights", *bench.adaptive.trained), *_files("module", *bench.adaptive.own))
    return (*inputs, *_files("intents", bench.adaptive.intents), *attackers)


def _assemble_counts(config: Config) -> tuple[str, ...]:
    assembled = ("splits/bench/*.jsonl", "splits/left_out.jsonl") if config.assembly else ()
    return ("splits/sft.jsonl", "splits/rl.jsonl", *assembled)


def _bootstrap_counts(config: Config) -> tuple[str, ...]:
    single = config.bootstrap.sft.single_turn
    folders = ("bootstrap", "bootstrap/single_turn") if single else ("bootstrap",)
    return tuple(f"{folder}/{name}.jsonl" for folder in folders for name in ("kept", "rejected"))


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="seeds",
            summary="Stage I only: turn single-turn pairs into scripts of several user turns.",
            writes=("seeds", "images"),
            prompts=("probe", "benign", "obfuscated", "caption", "rewrite", "plan", "attack_judge"),
            roles=("generator", "target", "attack_judge"),
            idle=_untried,
            inputs=_seeds_inputs,
            counts=lambda config: tuple(f"seeds/{kind}.jsonl" for kind in config.seeds.kinds),
            checks=(checks.measurable_gates("seeds"),),
            forecast=forecast.seeds,
            chain=("probe", "caption", "rewrite", "plan", CHAT, "attack_judge"),
        ),
        Stage(
            name="assemble",
            summary="Only draw the data sets for SFT, RL and bench from the scripts.",
            writes=("splits",),
            prompts=("script_check", "turn_check"),
            roles=("evaluator",),
            idle=lambda config: () if config.assembly and config.assembly.rules else ("evaluator",),
            needs=lambda config: ("seeds",),
            # the suites, whose scripts are kept out of training
            inputs=lambda config: _files("scripts", *config.bench.suites) if config.assembly else (),
            counts=_assemble_counts,
            checks=(checks.something_to_assemble,),
            forecast=forecast.assemble,
        ),
        Stage(
            name="bootstrap",
            summary="Stage II only: play red-blue dialogues and keep the safe and helpful ones.",
            writes=("bootstrap",),
            prompts=("red", "blue", "evaluator"),
            roles=("red", "blue", "evaluator"),
            needs=lambda config: ("assemble",),
            counts=_bootstrap_counts,
            checks=(checks.something_to_train_on,),
            forecast=forecast.bootstrap,
            chain=("red", "blue", CHAT),
        ),
        Stage(
            name="sft",
            summary="Stage II only: fine-tune the student on the dialogues kept.",
            writes=("sft",),
            needs=lambda config: ("bootstrap",),
            inputs=_student,
            checks=(checks.even_sft_steps,),
            student=True,
            trains=True,
        ),
        Stage(
            name="rl",
            summary="Stage III only: train the student with GRPO against the tutor.",
            writes=("rl",),
            prompts=("tutor", "tutor_memory", "script_check"),
            probed=lambda config: ("judge",) if config.probes_twins else (),
            roles=("tutor", "judge", "evaluator", "attack_judge"),
            idle=_rl_idle,
            needs=lambda config: ("assemble", "sft") if config.rl.start_from == "sft" else ("assemble",),
            inputs=_rl_inputs,
            facts=lambda config: {"algorithm": config.rl.algorithm},
            checks=(
                checks.engine,
                checks.weights_can_be_sent,
                checks.something_to_train_on,
                checks.one_process,
                checks.enough_seeds,
                checks.even_rl_steps,
                checks.own_code,
                checks.measurable_gates("rl"),
            ),
            warns=checks.before_rl,
            forecast=forecast.rl,
            chain=("tutor", "tutor_memory", "script_check"),
            student=True,
            trains=True,
        ),
        Stage(
            name="bench",
            summary="Only measure the models of a run.",
            writes=("suites", "intents", "capability", "bench", "summary.json", "protocol.yaml"),
            prompts=("judge", "judge_requests", "attacker", "attacker_show_text"),
            roles=("judge", "attacker"),
            idle=_bench_idle,
            needs=_bench_needs,
            inputs=_bench_inputs,
            checks=(checks.engine, checks.something_to_assemble, checks.measurable_gates("bench")),
            forecast=forecast.bench,
            student=True,
        ),
        Stage(
            name="report",
            summary="Write the HTML page of what a run has done so far.",
            writes=("report.html",),
        ),
    )
}
"""In the order of the method."""


def built_on(stage: str, config: Config) -> tuple[str, ...]:
    """All stages that one builds on, directly or not, in their order."""
    direct = STAGES[stage].needs(config)
    bases = {*direct, *(before for one in direct for before in built_on(one, config))}
    return tuple(name for name in STAGES if name in bases)
