"""The `bench` command: measures a run's models, models behind endpoints, or answers that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
import yaml
from pydantic import ValidationError

from safer_steer.cli import bench_options as options
from safer_steer.cli.app import Fresh, Limit, NoCheck, Override, Stub, app
from safer_steer.cli.stages import results
from safer_steer.config import Adaptive, Config, Role
from safer_steer.config.file import absolute, absolute_suites, in_words, load_config
from safer_steer.dialogue import Format
from safer_steer.errors import UserError, require


@app.command()
def bench(
    context: typer.Context,
    config: options.ConfigOfRun = None,
    out: options.Out = None,
    model: options.Model = None,
    base_url: options.BaseUrl = None,
    api_key_env: options.KeyEnv = None,
    suite: options.Suites = None,
    typographic: options.InPictures = None,
    capability: options.Capability = None,
    questions: options.Questions = None,
    judge_model: options.JudgeModel = None,
    judge_base_url: options.JudgeBaseUrl = None,
    judge_api_key_env: options.JudgeKeyEnv = None,
    verdict: options.Verdict = None,
    judge_requests: options.JudgeRequests = False,
    no_judge: options.NoJudge = False,
    attacker_model: options.AttackerModel = None,
    attacker_base_url: options.AttackerBaseUrl = None,
    attacker_api_key_env: options.AttackerKeyEnv = None,
    attacker_max_tokens: options.AttackerMaxTokens = None,
    attacker_pictures: options.AttackerPictures = None,
    adaptive: options.AdaptiveKeys = None,
    judge_only: options.JudgeOnly = None,
    protocol: options.ProtocolFile = None,
    format: options.Layout = Format.PLAIN,
    ask_layout: options.AskLayout = None,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    judge_max_tokens: options.JudgeMaxTokens = None,
    max_pixels: options.MaxPixels = None,
    concurrency: options.Concurrency = None,
    timeout: options.Timeout = None,
    dialogues: options.Dialogues = None,
    limit: Limit = None,
    stub: Stub = False,
    pictures: options.SentPictures = None,
    judge_pictures: options.JudgePictures = None,
    fresh: Fresh = False,
    no_check: NoCheck = False,
    override: Override = None,
) -> None:
    """Measure a run's models (CONFIG), models behind endpoints (--model), or kept answers (--judge-only)."""
    mode = options.mode_of(context)
    settings, by = options.settings_of(context), options.ByProtocol(context, protocol)
    roles, measured = settings["roles"], settings["bench"]
    judging = _targets(judge_model or ["sandbox"], judge_base_url or [], judge_api_key_env or [], "--judge-")
    judges = [by.sampled("judge_", roles["judge"] | judge) for judge in judging]
    if judge_only is not None:
        _need(mode, ("--judge-model", judge_model))
        return _judge_kept(judge_only, judges, measured, out, protocol, fresh, not no_check)
    if out is None:
        raise UserError("bench: give --out, the folder that the results go to")
    if config is not None:
        settings_of_run = load_config(config, limit, stub)
        return _of_run(settings_of_run, out, protocol, fresh, not no_check, override or ())
    _need(mode, ("--base-url", base_url), ("--suite", suite), ("--judge-model", judge_model or no_judge))
    if no_judge and judge_model and pictures != "caption":  # the judge may still describe the pictures
        raise UserError("bench: --no-judge and --judge-model are both given; give one of them")
    targets = _targets(model or [], base_url or [], api_key_env or [])
    roles["judge"] = judges if len(judges) > 1 else judges[0]
    roles["target"] = by.sampled("", roles["target"] | targets[0])
    if attacker_model:  # the others are asked with the same settings
        roles["attacker"] = by.sampled("attacker_", roles["attacker"] | {"model": attacker_model[0]})
    else:
        del roles["attacker"]
    for key in ("suites", "capability"):
        measured[key] = absolute_suites(measured.get(key, ()), Path.cwd())
    measured |= {"targets": targets if len(targets) > 1 else [], "judged": not no_judge}
    if typographic:
        measured["typographic"] = {"layout": typographic}
    measured["adaptive"] = _adaptive(attacker_model or [], adaptive or [])
    _served(settings | {"limit": limit}, out, protocol, fresh, not no_check)


def _compare(protocol: Path | None, settings: Config, out: Path, models: Sequence[str]) -> None:
    """Raises `UserError` if the bench that is to begin is not one by this protocol."""
    if protocol:
        from safer_steer.bench.protocol import refuse_other

        refuse_other(protocol, settings, out, models)


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
    _compare(protocol, settings, out, settings.bench.models)
    with results(out), Display() as show:
        pipeline.run_stage("bench", settings, out, show, fresh, try_models, override)


def _judge_kept(
    run: Path,
    roles: list[dict[str, Any]],
    bench: dict[str, Any],
    out: Path | None,
    protocol: Path | None,
    fresh: bool,
    try_models: bool,
) -> None:
    from safer_steer.bench.kept import judged_folder, judging_config, kept_models
    from safer_steer.run import measuring
    from safer_steer.run.display import Display

    with options.options_named():
        try:
            judges = [Role.model_validate(judge) for judge in roles]
        except ValidationError as error:
            raise UserError(f"bench: roles.judge.{in_words(error, Role)}") from None
        config = judging_config(run, judges, bench.get("verdict", "majority"), bench["judge_requests"])
        out = out or judged_folder(run, judges)
        _compare(protocol, config, out, kept_models(run))
        with results(out), Display() as show:
            measuring.judge_kept(config, run, out, show, fresh, try_models)


def _served(
    settings: dict[str, Any], out: Path, protocol: Path | None, fresh: bool, try_models: bool
) -> None:
    from safer_steer.run import measuring
    from safer_steer.run.display import Display

    with options.options_named():
        try:
            config = Config.model_validate(settings)
        except ValidationError as error:
            raise UserError(f"bench: {in_words(error)}") from None
        models = list(config.models_of("target"))
        config.name = ", ".join(models)
        _compare(protocol, config, out, models)
        with results(out), Display() as show:
            measuring.bench_endpoints(config, models, out, show, fresh, try_models)


def _targets(models: list[str], urls: list[str], keys: list[str], of: str = "--") -> list[dict[str, Any]]:
    """Each model with its endpoint and key: one of these for all models, or one for each. `of` is what their
    options begin with."""
    for option, given in (("base-url", urls), ("api-key-env", keys)):
        if len(given) not in (0, 1, len(models)):
            raise UserError(
                f"bench: {len(models)} {of}model and {len(given)} {of}{option}; give one for all, or one for"
                " each in the same order"
            )
    if len(set(urls)) > 1 and len(keys) == 1:
        raise UserError(
            f"bench: one {of}api-key-env and several {of}base-url; give one for each, '' for none: a key is"
            " sent to no other server than its own"
        )
    each_url, each_key = (given * len(models) if len(given) == 1 else given for given in (urls, keys))
    none = [""] * len(models)
    return [
        {"model": model, "base_url": url or None, "api_key_env": key or None}
        for model, url, key in zip(models, each_url or none, each_key or none, strict=True)
    ]


def _adaptive(attackers: list[str], given: list[str]) -> Adaptive | None:
    """The section `bench.adaptive`: these attackers, and what --adaptive sets. None without either."""
    settings: dict[str, Any] = {}
    for entry in given:
        key, equals, value = entry.partition("=")
        if not equals:
            raise UserError(f"bench: --adaptive {entry}: give KEY=VALUE, for instance tries=5")
        if key == "intents":
            settings[key] = absolute(value, Path.cwd())
        elif key == "trained":
            settings[key] = [absolute(path, Path.cwd()) for path in value.split(",")]
        elif key in ("own", "techniques"):
            settings[key] = value.split(",")
        else:
            settings[key] = _read(value)
    if not (attackers or settings.get("own") or settings.get("trained")):
        if given:
            raise UserError("bench: --adaptive needs --attacker-model too")
        return None
    try:
        return Adaptive.model_validate({"attackers": attackers} | settings)
    except ValidationError as error:
        raise UserError(f"bench: --adaptive {in_words(error, Adaptive)}") from None


def _read(value: str) -> Any:
    """A number, true, false or null; any other text as it is."""
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        return value


def _need(given: str, *options: tuple[str, object]) -> None:
    """Raises `UserError` if one of the options that `given` needs has no value."""
    for option, value in options:
        if not value:
            alternative = " (or --no-judge)" if option == "--judge-model" and given == "--model" else ""
            raise UserError(f"bench: {given} needs {option} too{alternative}")
