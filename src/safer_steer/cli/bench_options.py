"""The options of `bench`: types and help, what has an effect in which mode, and their names in errors."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from safer_steer.errors import NoResult, UserError

MODEL, JUDGE, ATTACKER = "Models behind endpoints", "Judge", "Attackers that adapt"
"""Headings of the help."""
SEVERAL = "may be given several times"
NAMES = {
    "roles.target.model": "--model",
    "roles.target.base_url": "--base-url",
    "roles.target.api_key_env": "--api-key-env",
    "roles.judge.model": "--judge-model",
    "roles.judge.base_url": "--judge-base-url",
    "roles.judge.api_key_env": "--judge-api-key-env",
    "roles.attacker": "--attacker-model",
    "roles.attacker.model": "--attacker-model",
    "roles.attacker.base_url": "--attacker-base-url",
    "roles.attacker.api_key_env": "--attacker-api-key-env",
    "bench.suites": "--suite",
    "bench.targets": "--model",
    "bench.judged": "--no-judge",
    "bench.adaptive.attackers": "--attacker-model",
}
"""What messages call the config keys that options set."""

ConfigOfRun = Annotated[
    Path | None, typer.Argument(metavar="CONFIG", help="Measure the models of a run.", show_default=False)
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Run folder. The same command again goes on where it stopped; with more models, suites,"
        " questions or attackers, it measures those too and keeps what is there."
    ),
]
Suites = Annotated[
    list[str] | None,
    typer.Option("--suite", help=f"JSONL file of scripts, `sandbox` or `natural`; {SEVERAL}."),
]
Model = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Instead of CONFIG: its id at the endpoint; {SEVERAL}, for models side by side. Keys of"
        " `student` and `roles.target` say how it is asked: --set student.format=thinking_answer.",
        rich_help_panel=MODEL,
    ),
]
BaseUrl = Annotated[
    list[str] | None,
    typer.Option(
        help="Its OpenAI-compatible endpoint, for instance http://localhost:8000/v1. Of several models: one"
        " for all, or one for each in the same order.",
        rich_help_panel=MODEL,
    ),
]
KeyEnv = Annotated[
    list[str] | None,
    typer.Option(
        help="Name of the environment variable with its key. With several --base-url, one for each, '' for"
        " none.",
        rich_help_panel=MODEL,
    ),
]
JudgeModel = Annotated[
    list[str] | None,
    typer.Option(
        help="The judge; `sandbox` is the embedded one, which knows only the sandbox's pictures."
        f" {SEVERAL.capitalize()}: every judge scores every turn.",
        rich_help_panel=JUDGE,
    ),
]
JudgeBaseUrl = Annotated[
    list[str] | None,
    typer.Option(
        help="The judge's endpoint. Of several judges: one for all, or one for each in the same order.",
        rich_help_panel=JUDGE,
    ),
]
JudgeKeyEnv = Annotated[
    list[str] | None,
    typer.Option(
        help="Name of the environment variable with the judge's key. With several --judge-base-url, one for"
        " each, '' for none.",
        rich_help_panel=JUDGE,
    ),
]
NoJudge = Annotated[
    bool,
    typer.Option(
        "--no-judge",
        help="Keep the answers and count what is seen without a judge; --judge-only scores them.",
        rich_help_panel=JUDGE,
    ),
]
JudgeOnly = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Instead: score the answers kept in this run folder with the judges named here. The results go"
        " to RUN/judged/JUDGE, or to --out; those of RUN stay, and its verdicts are paid for no second time."
        " Of exported answers nothing else counts, and the results go to RUN-judged/JUDGE.",
        rich_help_panel=JUDGE,
    ),
]
AttackerModel = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Also measure against this model as an attacker that adapts; {SEVERAL}. `sandbox-a`, `-b` and"
        " `-c` are embedded ones. Keys of `bench.adaptive` say how it attacks: --set bench.adaptive.tries=5.",
        rich_help_panel=ATTACKER,
    ),
]
AttackerBaseUrl = Annotated[
    str | None, typer.Option(help="The attackers' endpoint.", rich_help_panel=ATTACKER)
]
AttackerKeyEnv = Annotated[
    str | None,
    typer.Option(help="Name of the environment variable with the attackers' key.", rich_help_panel=ATTACKER),
]


ProtocolFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Measure by the protocol of another bench, which `safer-steer protocol` wrote: it sets judge,"
        " sampling and layout, and a suite, prompt, threshold or key that differs is refused.",
    ),
]

# Modes ------------------------------------------------------------------------

Mode = Literal["CONFIG", "--model", "--judge-only"]
_ALWAYS = {"out", "fresh", "no_check", "protocol", "set"}
_USED = {
    "CONFIG": {*_ALWAYS, "config", "limit", "stub", "override"},
    "--judge-only": {*_ALWAYS, "judge_only", "judge_model", "judge_base_url", "judge_api_key_env"},
}
"""The parameters of `bench` that have an effect with CONFIG and with --judge-only. With --model, all but
--stub and --override have."""
OF_JUDGING = (
    *("roles.judge.", "bench.verdict", "bench.judge_requests", "bench.max_unscored", "spending_limit"),
)
"""The keys that have an effect with --judge-only begin with these."""
OF_A_RUN = ("seeds.", "assembly", "bootstrap.", "rl.", "gates.", "report_to", "bench.models")
"""Those of keys that have none with --model, where nothing is trained."""


def mode_of(context: typer.Context, keys: Iterable[str]) -> Mode:
    """What is to be measured. Raises `UserError` if nothing is named, or several; or an option or a key was
    typed that has no effect then."""
    values = context.params
    if values["stub"] and values["config"] is None:
        raise UserError("bench: --stub works with CONFIG; it replaces the models that CONFIG names")
    named: dict[Mode, object] = {
        "CONFIG": values["config"],
        "--model": values["model"] or None,
        "--judge-only": values["judge_only"],
    }
    modes = [mode for mode, value in named.items() if value is not None]
    if len(modes) != 1:
        raise UserError(
            "bench: give either CONFIG, for the models of a run, or --model, for those behind endpoints, or"
            " --judge-only, for answers that an earlier bench kept"
        )
    [mode] = modes
    if mode == "--model" and values["override"]:
        raise UserError("bench: --override has no effect with --model; it has no gates")
    fix = "use --set or change the config" if mode == "CONFIG" else "it is as in the bench that is judged"
    for parameter in context.command.params if mode in _USED else ():
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source and source.name == "COMMANDLINE" and name not in _USED[mode]:
            raise UserError(f"bench: {parameter.opts[0]} has no effect with {mode}; {fix}")
    for key in keys:
        if mode == "--model" and key.startswith(OF_A_RUN):
            raise UserError(f"bench: --set {key} has no effect with --model; nothing is trained")
        if mode == "--judge-only" and not key.startswith(OF_JUDGING):
            raise UserError(f"bench: --set {key} has no effect with {mode}; {fix}")
    return mode


# Names in errors --------------------------------------------------------------

_KEY = re.compile(r"\b(?:roles|bench)(?:\.[a-z_]+)+")


@contextmanager
def options_named(typed: Container[str]) -> Iterator[None]:
    """Errors name the options of the command line, not the config keys behind them; but for those that were
    typed."""
    try:
        yield
    except (UserError, NoResult) as error:
        line = _KEY.sub(lambda key: key[0] if key[0] in typed else NAMES.get(key[0], key[0]), str(error))
        raise (NoResult if isinstance(error, NoResult) else UserError)(line) from None
