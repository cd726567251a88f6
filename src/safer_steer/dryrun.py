"""`--dry-run`: all of a run but the weights, as plain values. Nothing is called, loaded or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from safer_steer.config import Config, Role, RoleName
from safer_steer.errors import UserError


def dry_run(config: Config, folder: Path) -> dict[str, Any]:
    """The resolved config, who does which job, the data there is, and the trainers' arguments, which TRL has accepted.

    Raises:
        UserError: a trainer does not take its arguments.
    """
    from trl import GRPOConfig, SFTConfig

    from safer_steer.bootstrap.sft import sft_arguments
    from safer_steer.reinforce.grpo import grpo_arguments

    arguments = {"sft": sft_arguments(config, folder), "rl": grpo_arguments(config, folder)}
    for stage, trainer in (("sft", SFTConfig), ("rl", GRPOConfig)):
        try:
            trainer(**arguments[stage])
        except (ValueError, TypeError) as error:
            raise UserError(f"{stage}: the trainer refuses its arguments: {error}") from None
    return {
        "config": config.model_dump(mode="json"),
        "roles": {name: _who(config.role(name)) for name in get_args(RoleName)},
        "data": {
            "sources": [_source(config, index) for index in range(len(config.seeds.sources))],
            "suites": {name: _suite(name, config) for name in config.bench.suites},
        },
        "trainer_arguments": arguments,
    }


def _who(role: Role) -> str:
    if role.who == "sandbox":
        return "the sandbox's agent"
    if role.who == "student":
        return "the base student"
    key = f", key in {role.api_key_env}" if role.api_key_env else ""
    return f"{role.model} at {role.base_url}{key}, {role.concurrency} calls in flight, temperature {role.temperature:g}"


def _source(config: Config, index: int) -> str:
    from safer_steer.seeds.sources import Skipped, is_large, label, pairs_of, picture_hash, told

    source, skipped = config.seeds.sources[index], Skipped()
    if source.hub:
        return f"{source.name}, {source.hub} on the hub: loaded when the run starts"
    where = f"{source.name}, {source.path or 'built in'}"
    most, pairs, large = config.student.max_pixels, 0, set[str]()
    try:
        for pair in pairs_of(source, config, skipped):
            pairs += 1
            if is_large(pair, most):
                large.add(picture_hash(pair))
    except UserError as error:
        return f"{where}: not usable yet: {error}"
    return f"{where}: {pairs} pairs; {told(skipped, {label(source): len(large)}, most)}".removesuffix("; ")


def _suite(name: str, config: Config) -> str:
    from safer_steer.bench.protocols import SANDBOX, SANDBOX_DIALOGUES, STEER
    from safer_steer.bench.suites import large_pictures, read_suite
    from safer_steer.models.scaling import in_words

    if name == SANDBOX:
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
    found = f"{len(suite.seeds)} dialogues, {suite.protocol}{', safe twins' * suite.safe_twins}"
    return f"{found}; {scaled}".removesuffix("; ")
