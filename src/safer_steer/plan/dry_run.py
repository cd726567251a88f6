"""`--dry-run`: the plan of a run. No model is called or loaded, and nothing is written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import yaml
from rich.console import Console

from safer_steer.config import Config, Role, RoleName
from safer_steer.config.file import dump_config
from safer_steer.errors import UserError
from safer_steer.files.store import read_rows
from safer_steer.plan.memory import Memory
from safer_steer.stages import STAGES
from safer_steer.training.draws import too_few_seeds


@dataclass(frozen=True)
class Plan:
    """The model of each role, the data, the number of training steps, their memory, and the trainer arguments
    that TRL has accepted."""

    config: Config
    roles: dict[str, str]
    data: list[str]
    steps: dict[str, str]
    servers: list[str]
    memory: list[Memory]
    memory_notes: list[str]
    trainer_arguments: dict[str, dict[str, Any]]
    refusals: list[str]
    """Why stages would not start, one line each."""


def dry_run(config: Config, folder: Path, processes: int = 1, card: float | None = None) -> Plan:
    """The plan of a run in `folder`, on `processes` processes with a GPU of `card` bytes each. Raises
    `UserError`: a trainer rejects its arguments, or a step cannot be split over the processes."""
    from safer_steer.plan.memory_table import memory_plan

    arguments = _trainer_arguments(config, folder, processes)
    peaks, notes = memory_plan(config, processes, card)
    roles = [name for name in get_args(RoleName) if name != "attacker" or config.attacker_roles()]
    data = _scripts(config) or [_source(config, index) for index in range(len(config.seeds.sources))]
    data += [f"suite {name}: {_suite(name, config)}" for name in config.bench.suites]
    data += [f"questions {name}: {_questions(name, config)}" for name in config.bench.capability]
    return Plan(
        config,
        roles={
            config.account(name, model): _who(role)
            for name in roles
            for model, role in (
                config.models_of(name) if name == "judge" else {"": config.role(name)}
            ).items()
        },
        data=data,
        steps={
            "sft": _sft_steps(config, folder),
            "rl": config.rl.traits.in_words + _rl_steps(config, folder),
        },
        servers=_servers(config, folder),
        memory=peaks,
        memory_notes=notes,
        trainer_arguments=arguments,
        refusals=[*_refusals(config)],
    )


def show(plan: Plan, console: Console) -> None:
    """Print the plan as text: config and trainer arguments as YAML, then what follows from them, and at the
    end, where it is seen first, why stages would not start."""
    from safer_steer.plan.memory_table import memory_table

    def say(text: str = "") -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def part(title: str, lines: Sequence[str]) -> None:
        if lines:
            say(f"\n{title}")
        for line in lines:
            say(f"  {line}")

    for title, text in (
        ("Config", dump_config(plan.config)),
        ("Trainer arguments", yaml.safe_dump(plan.trainer_arguments, sort_keys=False)),
    ):
        say(f"{title}\n{text}")
    width = max(map(len, plan.roles))
    say("Roles")
    for name, who in plan.roles.items():
        say(f"  {name:{width}}  {who}")
    part("Data", plan.data)
    part("Steps", [f"{stage}: {steps}" for stage, steps in plan.steps.items()])
    part("Gates", [f"{gate}: {band} ({band.basis})" for gate, band in plan.config.gates.items()])
    part("Servers", plan.servers)
    say("\nGPU memory")
    if plan.memory:
        console.print(memory_table(console, plan.memory), crop=False)
    for line in plan.memory_notes:
        say(f"  {line}")
    part("Would not start", plan.refusals)


def _refusals(config: Config) -> Iterator[str]:
    """Why stages would not start; the student's folder, and keys and addresses of roles, that are missing."""
    from safer_steer.endpoints.endpoint import EndpointTransport
    from safer_steer.run.calls_check import roles_asked
    from safer_steer.student.load import refuse_no_folder

    looks: list[tuple[str, Callable[[], object]]] = [("", partial(refuse_no_folder, config.student.base))]
    for name in roles_asked(config, STAGES):
        roles = config.models_of(name).values()
        looks += [(f"roles.{name}: ", partial(EndpointTransport, role)) for role in roles]
    for stage in STAGES.values():
        looks += [(f"{stage.name}: ", partial(check, config)) for check in stage.checks]
    for place, look in looks:
        try:
            refusal = look()
        except UserError as error:
            refusal = str(error)
        if refusal and isinstance(refusal, str):
            yield f"{place}{refusal}"


def _trainer_arguments(config: Config, folder: Path, processes: int) -> dict[str, dict[str, Any]]:
    from trl import DPOConfig, GRPOConfig, SFTConfig

    from safer_steer.student.training import batching
    from safer_steer.training.dpo import dpo_arguments
    from safer_steer.training.grpo import grpo_arguments
    from safer_steer.training.sft import sft_arguments

    sft, rl = config.bootstrap.sft, config.rl
    arguments = {"sft": sft_arguments(config, folder)}
    arguments["sft"] |= batching(
        sft.batch_size, sft.micro_batch_size, "bootstrap.sft.micro_batch_size", processes
    )
    dpo = rl.algorithm == "dpo"
    if dpo:
        arguments["rl"] = dpo_arguments(config, folder)
    else:
        trajectories = rl.prompts_per_step * rl.group_size
        arguments["rl"] = grpo_arguments(config, folder / "rl")
        arguments["rl"] |= batching(trajectories, rl.micro_batch_size, "rl.micro_batch_size", processes)
    for stage, trainer in (("sft", SFTConfig), ("rl", DPOConfig if dpo else GRPOConfig)):
        try:
            trainer(**arguments[stage])
        except (ValueError, TypeError) as error:
            raise UserError(f"{stage}: the trainer refuses its arguments: {error}") from None
    return arguments


def _servers(config: Config, folder: Path) -> list[str]:
    """How to start the servers of `rl.rollouts`."""
    if config.rl.rollouts.engine != "vllm":
        return []
    from safer_steer.run.agents import weights_of
    from safer_steer.student.vllm_weights import serve_line

    start = weights_of(folder, "sft") if config.rl.start_from == "sft" else None
    saved = str(start.resolve()) if start else config.student.base
    where = ", ".join(config.rl.rollouts.base_url)
    when = "once that model is there" if start and not config.student.lora_rank else "before the run"
    return [f"rl, at {where}, {when}: {serve_line(config.student, saved, config.rl.traits.online)}"]


def _sft_steps(config: Config, folder: Path) -> str:
    """SFT also trains on the last, smaller batch."""
    sft = config.bootstrap.sft
    if sft.max_steps > 0:
        return f"{_many(sft.max_steps, 'step')} of {_many(sft.batch_size, 'dialogue')}"
    path = folder / "bootstrap" / "kept.jsonl"
    if path.is_file():
        with path.open("rb") as file:
            dialogues, at_most = sum(1 for _ in file), ""
    elif config.bootstrap.dialogues is not None:
        dialogues, at_most = config.bootstrap.dialogues, "at most "
    else:
        return f"steps of {_many(sft.batch_size, 'dialogue')}, {_times(sft.epochs)} over what Stage II keeps"
    steps = math.ceil(sft.epochs * math.ceil(dialogues / sft.batch_size))
    words = "if all are kept of" if at_most else "over"
    return (
        f"{at_most}{_many(steps, 'step')} of {_many(sft.batch_size, 'dialogue')}: {_times(sft.epochs)}"
        f" {words} {dialogues:,}; the last step of a pass may be smaller"
    )


def _rl_steps(config: Config, folder: Path) -> str:
    """How many, and what is left over (`training/draws.py`)."""
    rl = config.rl
    each = f"of {_many(rl.prompts_per_step, 'seed')}"
    seeds = _seeds(config, folder)
    if seeds is None:
        rest = "a last step of fewer is left out"
        if rl.steps > 0:
            steps = _many(rl.steps, "step")
            return f"{steps} {each}; how many passes that is, Stage I will show; in each, {rest}"
        return f"steps {each}, one pass over the seeds that Stage I yields; {rest}"
    if line := too_few_seeds(rl, seeds):
        return f"no step: {line}"
    whole, over = divmod(seeds, rl.prompts_per_step)
    rest = f"{over:,} of {seeds:,} seeds are left over" if over else f"all {seeds:,} seeds are used"
    if rl.steps > 0:
        passes = _times(rl.steps / whole)
        return f"{_many(rl.steps, 'step')} {each}: {passes} over the seeds; in a whole pass {rest}"
    return f"{_many(whole, 'step')} {each}; {rest}"


def _seeds(config: Config, folder: Path) -> int | None:
    """The number of RL seeds: those that Stage I has drawn, or else `rl.seeds`, which may be None."""
    file = folder / "splits" / "rl.jsonl"
    return sum(1 for _ in read_rows(file)) if file.is_file() else config.rl.seeds


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def _times(passes: float) -> str:
    return f"{passes:.3g} pass{'' if passes == 1 else 'es'}"


def _who(role: Role) -> str:
    if not role.remote:
        return role.title() + ": made-up answers, no model" * role.made_up
    key = f", key in {role.api_key_env}" if role.api_key_env else ""
    eyes = {True: "", False: ", gets no pictures", "caption": ", gets descriptions of pictures"}
    return (
        f"{role.model} at {role.base_url}{key}{eyes[role.pictures]}, {role.concurrency} calls in flight,"
        f" temperature {role.temperature:g}"
    )


def _scripts(config: Config) -> list[str]:
    if not config.seeds.scripts:
        return []
    from safer_steer.data.seeds.own_scripts import own_scripts

    try:
        kinds = Counter(seed.kind.value for seed in own_scripts(config))
    except UserError as error:
        return [f"scripts: not usable yet: {error}"]
    return [f"scripts, {config.seeds.scripts}: {', '.join(f'{kinds[kind]} {kind}' for kind in kinds)}"]


def _source(config: Config, index: int) -> str:
    from safer_steer.data.sources.load import Skipped, label, left_out_in_words, pairs_of

    source, skipped = config.seeds.sources[index], Skipped()
    if source.hub:
        return f"{source.name}, {source.hub} on the hub: loaded when the run starts"
    where = f"{source.name}, {source.path or 'built in'}"
    most, pairs, large = config.student.max_pixels, 0, set[str]()
    try:
        for pair in pairs_of(source, config, skipped):
            pairs += 1
            if pair.is_large(most):
                large.add(pair.picture_hash())
    except UserError as error:
        return f"{where}: not usable yet: {error}"
    left_out = left_out_in_words(skipped, {label(source): len(large)}, most)
    return f"{where}: {pairs} pairs; {left_out}".removesuffix("; ")


def _questions(name: str, config: Config) -> str:
    from safer_steer.bench.questions import count

    try:
        return f"{count(name, config.bench.questions):,} multiple-choice questions"
    except UserError as error:
        return f"not usable yet: {error}"


def _suite(name: str, config: Config) -> str:
    from safer_steer.bench.suites import SANDBOX_DIALOGUES, large_pictures, read_suite
    from safer_steer.config.bench import EMBEDDED, STEER
    from safer_steer.files.scaling import in_words

    if name in EMBEDDED:
        size = config.bench.dialogues or SANDBOX_DIALOGUES
        return f"built in: {size} marked and {size} unmarked dialogues, and as many single turns"
    if name == STEER:
        return "assembled from the sources with `use: bench`"
    try:
        suite = read_suite(Path(name))
        most = config.student.max_pixels
        scaled = in_words(len(large_pictures(suite, most)), most)
    except UserError as error:
        return f"not usable yet: {str(error).removeprefix(f'{name}: ')}"
    dialogues = f"{len(suite.seeds)} dialogues, {suite.protocol}{', safe twins' * suite.safe_twins}"
    return f"{dialogues}; {scaled}".removesuffix("; ")
