"""The `bench` command: measures a run's models, models behind endpoints, or answers that were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import ValidationError

from safer_steer.cli import bench_options as options
from safer_steer.cli.app import Fresh, Limit, NoCheck, Override, Set, Stub, app
from safer_steer.cli.stages import results
from safer_steer.config import Config
from safer_steer.config.file import in_words, load_config
from safer_steer.config.keys import make_absolute, read_keys, set_keys
from safer_steer.dialogue import Format
from safer_steer.errors import UserError, require

if TYPE_CHECKING:
    from safer_steer.bench.protocol import Answering


@app.command()
def bench(
    context: typer.Context,
    config: options.ConfigOfRun = None,
    out: options.Out = None,
    model: options.Model = None,
    base_url: options.BaseUrl = None,
    api_key_env: options.KeyEnv = None,
    suite: options.Suites = None,
    judge_model: options.JudgeModel = None,
    judge_base_url: options.JudgeBaseUrl = None,
    judge_api_key_env: options.JudgeKeyEnv = None,
    no_judge: options.NoJudge = False,
    judge_only: options.JudgeOnly = None,
    attacker_model: options.AttackerModel = None,
    attacker_base_url: options.AttackerBaseUrl = None,
    attacker_api_key_env: options.AttackerKeyEnv = None,
    protocol: options.ProtocolFile = None,
    set: Set = None,
    limit: Limit = None,
    stub: Stub = False,
    fresh: Fresh = False,
    no_check: NoCheck = False,
    override: Override = None,
) -> None:
    """Measure a run's models (CONFIG), models behind endpoints (--model), or kept answers (--judge-only)."""
    typed = read_keys(set or ())
    mode = options.mode_of(context, typed)
    held = None
    if protocol:
        from safer_steer.bench.protocol import read

        held = read(protocol)
        judge_model = judge_model or [judge.model for judge in held.judges]
        attacker_model = attacker_model or [attacker.model for attacker in held.attackers]
        no_judge = no_judge or not held.judges
    judging = _targets(judge_model or ["sandbox"], judge_base_url or [], judge_api_key_env or [], "--judge-")
    judges = [_sampled(held, "judge", judge) for judge in judging]
    if judge_only is not None:
        _need(mode, ("--judge-model", judge_model))
        keys = {key: value for key, value in held.keys.items() if key in options.OF_JUDGING} if held else {}
        return _judge_kept(judge_only, judges, keys | typed, out, protocol, fresh, not no_check)
    if out is None:
        raise UserError("bench: give --out, the folder that the results go to")
    if config is not None:
        settings_of_run = load_config(config, limit, stub, typed)
        return _of_run(settings_of_run, out, protocol, fresh, not no_check, override or ())
    _need(mode, ("--base-url", base_url), ("--suite", suite), ("--judge-model", judge_model or no_judge))
    describes = typed.get("roles.target.pictures") == "caption"
    if no_judge and judge_model and not describes:  # the judge may still describe the pictures
        raise UserError("bench: --no-judge and --judge-model are both given; give one of them")
    targets = _targets(model or [], base_url or [], api_key_env or [])
    for key in ("model", "base_url", "api_key_env") if len(targets) > 1 else ():
        if f"roles.target.{key}" in typed:
            raise UserError(
                f"bench: --set roles.target.{key} is of one model; give --{key.replace('_', '-')}"
            )
    roles: dict[str, Any] = {"target": _sampled(held, "target", targets[0]), "judge": judges}
    measured: dict[str, Any] = {"suites": suite, "judged": not no_judge}
    measured["targets"] = targets if len(targets) > 1 else []
    if attacker_model:  # the others are asked with the same settings
        attacker = {"base_url": attacker_base_url, "api_key_env": attacker_api_key_env}
        roles["attacker"] = _sampled(held, "attacker", {"model": attacker_model[0]}) | attacker
        measured["adaptive"] = {"attackers": attacker_model}
    settings = {"student": {"format": Format.PLAIN}, "roles": roles, "bench": measured, "limit": limit}
    _served(settings, (held.keys if held else {}) | typed, out, protocol, fresh, not no_check)


def _sampled(held: Any, role: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a role's model, asked as the protocol asks it, if there is one."""
    return settings | (held.sampling(role, settings["model"]) if held else {})


def _compare(protocol: Path | None, settings: Config, out: Path, answering: Answering) -> None:
    """Raises `UserError` if the bench that is to begin is not one by this protocol."""
    if protocol:
        from safer_steer.bench.protocol import refuse_other

        refuse_other(protocol, settings, out, answering)


def _of_run(
    settings: Config,
    out: Path,
    protocol: Path | None,
    fresh: bool,
    try_models: bool,
    override: Sequence[str],
) -> None:
    from safer_steer import pipeline
    from safer_steer.run.display import Display

    require("student", "bench CONFIG")
    _compare(protocol, settings, out, "students")
    with results(out), Display() as show:
        pipeline.run_stage("bench", settings, out, show, fresh, try_models, override)


def _judge_kept(
    run: Path,
    judges: list[dict[str, Any]],
    keys: Mapping[str, Any],
    out: Path | None,
    protocol: Path | None,
    fresh: bool,
    try_models: bool,
) -> None:
    from safer_steer.bench.kept import judged_folder, judging_config
    from safer_steer.run import measuring
    from safer_steer.run.display import Display

    with options.options_named(keys):
        config = judging_config(run, judges, keys)
        out = out or judged_folder(run, config.models_of("judge"))
        _compare(protocol, config, out, run)
        with results(out), Display() as show:
            measuring.judge_kept(config, run, out, show, fresh, try_models)


def _served(
    settings: dict[str, Any],
    keys: Mapping[str, Any],
    out: Path,
    protocol: Path | None,
    fresh: bool,
    try_models: bool,
) -> None:
    from safer_steer.run import measuring
    from safer_steer.run.display import Display

    with options.options_named(keys):
        make_absolute(settings, Path.cwd())
        set_keys(settings, keys, "bench: --set")
        try:
            config = Config.model_validate(settings)
        except ValidationError as error:
            raise UserError(f"bench: {in_words(error)}") from None
        adaptive = config.bench.adaptive
        if adaptive and not (adaptive.attackers or adaptive.own or adaptive.trained):
            raise UserError("bench: bench.adaptive needs --attacker-model too, or an `own` one")
        models = list(config.models_of("target"))
        if "name" not in keys:
            config.name = ", ".join(models)
        _compare(protocol, config, out, "target")
        with results(out), Display() as show:
            measuring.bench_endpoints(config, out, show, fresh, try_models)


def _targets(models: list[str], urls: list[str], keys: list[str], of: str = "--") -> list[dict[str, Any]]:
    """Each model with its endpoint and key: one of these for all models, or one for each. `of` is what their
    options begin with."""
    for option, values in (("base-url", urls), ("api-key-env", keys)):
        if len(values) not in (0, 1, len(models)):
            raise UserError(
                f"bench: {len(models)} {of}model and {len(values)} {of}{option}; give one for all, or one for"
                " each in the same order"
            )
    if len(set(urls)) > 1 and len(keys) == 1:
        raise UserError(
            f"bench: one {of}api-key-env and several {of}base-url; give one for each, '' for none: a key is"
            " sent to no other server than its own"
        )
    each_url, each_key = (values * len(models) if len(values) == 1 else values for values in (urls, keys))
    none = [""] * len(models)
    return [
        {"model": model, "base_url": url or None, "api_key_env": key or None}
        for model, url, key in zip(models, each_url or none, each_key or none, strict=True)
    ]


def _need(flag: str, *options: tuple[str, object]) -> None:
    """Raises `UserError` if one of the options that `flag` needs has no value."""
    for option, value in options:
        if not value:
            alternative = " (or --no-judge)" if option == "--judge-model" and flag == "--model" else ""
            raise UserError(f"bench: {flag} needs {option} too{alternative}")
