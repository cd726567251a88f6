"""The `bench` command: measures a run's models, any model behind an endpoint, or answers that were kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from pydantic import ValidationError

from safer_steer.cli.app import Fresh, Limit, NoCheck, Stub, app
from safer_steer.cli.stages import results
from safer_steer.config import Adaptive, Bench, Config, Role, RoleName, Student
from safer_steer.config_file import absolute, absolute_suites, in_words, load_config
from safer_steer.dialogue import Format
from safer_steer.errors import NoResult, UserError
from safer_steer.extras import require

MODEL, JUDGE, ATTACKER = "A model behind an endpoint", "Judge", "Attackers that adapt"
"""Headings of the help."""

OPTIONS = {
    "roles.target.model": "--model",
    "roles.target.base_url": "--base-url",
    "roles.target.temperature": "--temperature",
    "roles.target.max_tokens": "--max-tokens",
    "roles.target.ask_layout": "--ask-layout",
    "roles.target.pictures": "--pictures",
    "roles.judge.pictures": "--judge-pictures",
    "roles.judge.model": "--judge-model",
    "roles.judge.base_url": "--judge-base-url",
    "roles.judge.max_tokens": "--judge-max-tokens",
    "roles.attacker.base_url": "--attacker-base-url",
    "roles.attacker": "--attacker-model",
    "bench.adaptive.attackers": "--attacker-model",
    "bench.adaptive.": "--adaptive ",
    "student.format": "--format",
    "student.max_pixels": "--max-pixels",
    "bench.suites": "--suite",
    "bench.dialogues": "--dialogues",
    "bench.capability": "--capability",
    "bench.questions": "--questions",
    "bench.judged": "--no-judge",
}
"""Config keys and the options that set them: messages name what the user typed."""
ALWAYS = {"out", "fresh", "no_check"}
JUDGING = {"judge_model", "judge_base_url", "judge_api_key_env", "judge_max_tokens", "judge_pictures"}
USED = {
    "CONFIG": {*ALWAYS, "config", "limit", "stub"},
    "--judge-only": {*ALWAYS, *JUDGING, "judge_only", "concurrency", "timeout"},
}
"""The parameters of `bench` that have an effect with CONFIG and with --judge-only. With --model, all have."""


@app.command()
def bench(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Measure the models of a run.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder. The same command again goes on where it stopped."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Instead of CONFIG: its id at the endpoint.", rich_help_panel=MODEL)
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="Its OpenAI-compatible endpoint, for instance http://localhost:8000/v1.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Name of the environment variable with its key.", rich_help_panel=MODEL)
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="JSONL file of scripts, or `sandbox`; may be given several times."),
    ] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option(
            help="Multiple-choice questions: a JSONL or Parquet file or a folder in ScienceQA's columns, or"
            " `sandbox`; may be given several times. No judge is asked about them."
        ),
    ] = None,
    questions: Annotated[
        int | None, typer.Option(min=1, help="At most this many questions of each set, drawn at random.")
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(
            help="The judge; `sandbox` is the embedded one, which knows only the sandbox's pictures.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    judge_base_url: Annotated[
        str | None, typer.Option(help="The judge's endpoint.", rich_help_panel=JUDGE)
    ] = None,
    judge_api_key_env: Annotated[
        str | None,
        typer.Option(help="Name of the environment variable with the judge's key.", rich_help_panel=JUDGE),
    ] = None,
    no_judge: Annotated[
        bool,
        typer.Option(
            "--no-judge",
            help="Keep the answers and score nothing; --judge-only scores them.",
            rich_help_panel=JUDGE,
        ),
    ] = False,
    attacker_model: Annotated[
        list[str] | None,
        typer.Option(
            help="Also measure against this model as an attacker that adapts; may be given several times."
            " `sandbox-a`, `-b` and `-c` are embedded ones.",
            rich_help_panel=ATTACKER,
        ),
    ] = None,
    attacker_base_url: Annotated[
        str | None, typer.Option(help="The attackers' endpoint.", rich_help_panel=ATTACKER)
    ] = None,
    attacker_api_key_env: Annotated[
        str | None,
        typer.Option(
            help="Name of the environment variable with the attackers' key.", rich_help_panel=ATTACKER
        ),
    ] = None,
    adaptive: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A key of bench.adaptive, such as tries=5 or intents=FILE (docs/adaptive.md); may be given"
            " several times.",
            rich_help_panel=ATTACKER,
        ),
    ] = None,
    judge_only: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Instead: score the answers kept in this run folder with the judge named here. The"
            " results go to RUN/judged/JUDGE, or to --out; those of RUN stay.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    format: Annotated[
        Format,
        typer.Option(
            metavar="LAYOUT",
            help="Layout of the answers, asked for and read: plain or thinking_answer.",
            rich_help_panel=MODEL,
        ),
    ] = Format.PLAIN,
    ask_layout: Annotated[
        bool,
        typer.Option(
            help="Ask for the layout in the system message; a model trained on it needs no asking.",
            rich_help_panel=MODEL,
        ),
    ] = True,
    temperature: Annotated[
        float, typer.Option(min=0, help="Sampling temperature of the model.", rich_help_panel=MODEL)
    ] = 0.7,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Token limit of one answer.", rich_help_panel=MODEL)
    ] = 2048,
    judge_max_tokens: Annotated[
        int, typer.Option(min=1, help="Token limit of one verdict.", rich_help_panel=JUDGE)
    ] = 2048,
    max_pixels: Annotated[
        int, typer.Option(min=784, help="A picture with more pixels is scaled down to this many.")
    ] = Student().max_pixels,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls in flight, for model and judge each.")] = 64,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds before a call to model or judge is tried again.")
    ] = 120,
    dialogues: Annotated[
        int | None,
        typer.Option(min=1, help="Draw at most this many attack dialogues, and as many safe ones."),
    ] = None,
    limit: Limit = None,
    stub: Stub = False,
    pictures: Annotated[
        Literal["true", "false", "caption"],
        typer.Option(
            help="What the model gets of a picture: itself, nothing, or a description by the judge.",
            rich_help_panel=MODEL,
        ),
    ] = "true",
    judge_pictures: Annotated[
        Literal["true", "false", "caption"],
        typer.Option(
            help="The same for the judge; the descriptions are then by the model under test.",
            rich_help_panel=JUDGE,
        ),
    ] = "true",
    fresh: Fresh = False,
    no_check: NoCheck = False,
) -> None:
    """Measure a run's models (CONFIG), one behind an endpoint (--model), or kept answers (--judge-only)."""
    from safer_steer import measuring, pipeline
    from safer_steer.run.display import Display

    if stub and config is None:
        raise UserError("bench: --stub works with CONFIG; it replaces the models that CONFIG names")
    if sum(given is not None for given in (config, model, judge_only)) != 1:
        raise UserError(
            "bench: give either CONFIG, for the models of a run, or --model, for one behind an endpoint, or"
            " --judge-only, for answers that an earlier bench kept"
        )
    if model is None:
        _refuse_unused(context, "CONFIG" if config else "--judge-only")
    judge = Role(
        model=judge_model or "sandbox",
        base_url=judge_base_url,
        api_key_env=judge_api_key_env,
        max_tokens=judge_max_tokens,
        concurrency=concurrency,
        timeout_s=timeout,
        pictures=_pictures(judge_pictures),
    )
    if judge_only is not None:
        from safer_steer.bench.kept import judged_folder, judging_config

        _need("--judge-only", ("--judge-model", judge_model))
        settings, out = judging_config(judge_only, judge), out or judged_folder(judge_only, judge)
        with _options_named(), results(out), Display() as show:
            measuring.judge_kept(settings, judge_only, out, show, fresh, try_models=not no_check)
        return
    if out is None:
        raise UserError("bench: give --out, the folder that the results go to")
    if config is not None:
        settings = load_config(config, limit, stub)
        require("student", "bench CONFIG")
        with results(out), Display() as show:
            pipeline.run_stage("bench", settings, out, show, fresh, try_models=not no_check)
        return
    assert model is not None
    _need("--model", ("--base-url", base_url), ("--suite", suite), ("--judge-model", judge_model or no_judge))
    if no_judge and judge_model and pictures != "caption":  # the judge may still describe the pictures
        raise UserError("bench: --no-judge and --judge-model are both given; give one of them")
    target = Role(
        model=model,
        base_url=base_url,
        api_key_env=api_key_env,
        temperature=temperature,
        max_tokens=max_tokens,
        concurrency=concurrency,
        timeout_s=timeout,
        ask_layout=ask_layout,
        pictures=_pictures(pictures),
    )
    roles: dict[RoleName, Role] = {"target": target, "judge": judge}
    attackers = attacker_model or []
    if attackers:
        roles["attacker"] = Role(
            model=attackers[0],
            base_url=attacker_base_url,
            api_key_env=attacker_api_key_env,
            concurrency=concurrency,
            timeout_s=timeout,
        )
    try:
        settings = Config(
            name=model,
            student=Student(format=format, max_pixels=max_pixels),
            roles=roles,
            limit=limit,
            bench=Bench(
                suites=absolute_suites(suite or [], Path.cwd()),
                capability=absolute_suites(capability or [], Path.cwd()),
                questions=questions,
                dialogues=dialogues,
                judged=not no_judge,
                adaptive=_adaptive(attackers, adaptive or []),
            ),
        )
    except ValidationError as error:
        raise UserError(f"bench: {in_words(error)}") from None
    with _options_named(), results(out), Display() as show:
        measuring.bench_endpoint(settings, model, out, show, fresh, try_models=not no_check)


def _pictures(given: Literal["true", "false", "caption"]) -> bool | Literal["caption"]:
    return "caption" if given == "caption" else given == "true"


def _adaptive(attackers: list[str], given: list[str]) -> Adaptive | None:
    """The section `bench.adaptive`: these attackers, and what --adaptive sets. None without either.

    Raises:
        UserError: an entry is not KEY=VALUE, a key is unknown or a value wrong, or there is no attacker.
    """
    settings: dict[str, Any] = {}
    for entry in given:
        key, found, value = entry.partition("=")
        if not found:
            raise UserError(f"bench: --adaptive {entry}: give KEY=VALUE, for instance tries=5")
        if key == "intents":
            settings[key] = absolute(value, Path.cwd())
        elif key in ("own", "techniques"):
            settings[key] = value.split(",")
        else:
            settings[key] = _read(value)
    if not attackers and not settings.get("own"):
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


def _refuse_unused(context: typer.Context, mode: str) -> None:
    """Raises `UserError` if an option was typed that has no effect in this mode."""
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source and source.name == "COMMANDLINE" and name not in USED[mode]:
            fix = "change the config instead" if mode == "CONFIG" else "it is as in the bench that is judged"
            raise UserError(f"bench: {parameter.opts[0]} has no effect with {mode}; {fix}")


def _need(given: str, *options: tuple[str, object]) -> None:
    """Raises `UserError` if one of the options that `given` needs has no value."""
    for option, value in options:
        if not value:
            alternative = " (or --no-judge)" if option == "--judge-model" and given == "--model" else ""
            raise UserError(f"bench: {given} needs {option} too{alternative}")


@contextmanager
def _options_named() -> Iterator[None]:
    """Errors name the options of the command line, not the config keys behind them."""
    try:
        yield
    except (UserError, NoResult) as error:
        line = str(error)
        for key, option in OPTIONS.items():
            line = line.replace(key, option)
        raise (NoResult if isinstance(error, NoResult) else UserError)(line) from None
