"""The options of `bench`: types and help, the config that they make, what has an effect in which mode, and
their names in errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from safer_steer.cli.app import KEYS, help_of
from safer_steer.config import JoinedBy
from safer_steer.config.typographic import Layout as DrawnLayout
from safer_steer.dialogue import Format
from safer_steer.errors import NoResult, UserError

MODEL, JUDGE, ATTACKER = "Models behind endpoints", "Judge", "Attackers that adapt"
"""Headings of the help."""
ASKED = ("target", "judge", "attacker")
"""The roles that a bench asks."""
SEVERAL = "may be given several times"
Pictures = Literal["true", "false", "caption"]

OPTIONS: dict[str, str] = {}
"""Config keys, and the options that set them; `<role>` stands for each of `ASKED`."""
NAMES = {
    "roles.target.model": "--model",
    "roles.target.base_url": "--base-url",
    "roles.target.api_key_env": "--api-key-env",
    "roles.judge.model": "--judge-model",
    "roles.judge.base_url": "--judge-base-url",
    "roles.judge.api_key_env": "--judge-api-key-env",
    "roles.attacker": "--attacker-model",
    "roles.attacker.model": "--attacker-model",
    "bench.targets": "--model",
    "bench.judged": "--no-judge",
    "bench.typographic": "--typographic",
    "bench.adaptive.attackers": "--attacker-model",
}
"""What messages call further keys."""


def setting(key: str, option: str, panel: str | None = None, help: str = "") -> Any:
    """The option that sets a config key. The key's description is its help, if it has none of its own."""
    OPTIONS[key] = option.partition("/")[0]
    described = re.sub(r"^roles\.\w+", "roles.<role>", key)
    default = KEYS[described][2]
    shown = False if help or default == "null" else default.strip('"')
    return typer.Option(option, help=help or help_of(described), rich_help_panel=panel, show_default=shown)


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
Model = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Instead of CONFIG: its id at the endpoint; {SEVERAL}, for models side by side.",
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
Layout = Annotated[
    Format,
    setting("student.format", "--format", MODEL, "Layout of the answers, asked for and read."),
]
AskLayout = Annotated[bool | None, setting("roles.target.ask_layout", "--ask-layout/--no-ask-layout", MODEL)]
System = Annotated[str | None, setting("student.system", "--system", MODEL)]
Temperature = Annotated[float | None, setting("roles.target.temperature", "--temperature", MODEL)]
MaxTokens = Annotated[int | None, setting("roles.target.max_tokens", "--max-tokens", MODEL)]
SentPictures = Annotated[Pictures | None, setting("roles.target.pictures", "--pictures", MODEL)]
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
Verdict = Annotated[JoinedBy | None, setting("bench.verdict", "--verdict", JUDGE)]
JudgeMaxTokens = Annotated[int | None, setting("roles.judge.max_tokens", "--judge-max-tokens", JUDGE)]
JudgePictures = Annotated[Pictures | None, setting("roles.judge.pictures", "--judge-pictures", JUDGE)]
NoJudge = Annotated[
    bool,
    typer.Option(
        "--no-judge",
        help="Keep the answers and count what is seen without a judge; --judge-only scores them.",
        rich_help_panel=JUDGE,
    ),
]
JudgeRequests = Annotated[bool, setting("bench.judge_requests", "--judge-requests", JUDGE)]
JudgeOnly = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Instead: score the answers kept in this run folder with the judges named here. The results go"
        " to RUN/judged/JUDGE, or to --out; those of RUN stay, and its verdicts are paid for no second time.",
        rich_help_panel=JUDGE,
    ),
]


def _defaults(context: typer.Context, file: Path | None) -> Path | None:
    """What a protocol holds is the default of the options that set it."""
    if file:
        from safer_steer.bench.protocol import read

        context.default_map = read(file).options
    return file


ProtocolFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=_defaults,
        is_eager=True,
        help="Measure by the protocol of another bench, which `safer-steer protocol` wrote: it sets judge,"
        " sampling and layout, and a suite, prompt, threshold or option that differs is refused.",
    ),
]
AttackerModel = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Also measure against this model as an attacker that adapts; {SEVERAL}. `sandbox-a`, `-b` and"
        " `-c` are embedded ones.",
        rich_help_panel=ATTACKER,
    ),
]
AttackerBaseUrl = Annotated[str | None, setting("roles.attacker.base_url", "--attacker-base-url", ATTACKER)]
AttackerKeyEnv = Annotated[
    str | None, setting("roles.attacker.api_key_env", "--attacker-api-key-env", ATTACKER)
]
AttackerMaxTokens = Annotated[
    int | None, setting("roles.attacker.max_tokens", "--attacker-max-tokens", ATTACKER)
]
AttackerPictures = Annotated[
    Pictures | None, setting("roles.attacker.pictures", "--attacker-pictures", ATTACKER)
]
AdaptiveKeys = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="A key of bench.adaptive, such as tries=5 or intents=FILE (docs/how-to/adaptive.md);"
        f" {SEVERAL}.",
        rich_help_panel=ATTACKER,
    ),
]
Suites = Annotated[
    list[str] | None,
    setting("bench.suites", "--suite", help=f"JSONL file of scripts, `sandbox` or `natural`; {SEVERAL}."),
]
InPictures = Annotated[
    DrawnLayout | None,
    typer.Option(
        "--typographic",
        help="Measure every suite a second time, its words drawn into pictures: `whole`, `split` (the second"
        " half of a turn) or `list` (above a list with empty items).",
    ),
]
Capability = Annotated[
    list[str] | None,
    setting(
        "bench.capability",
        "--capability",
        help="Multiple-choice questions: a JSONL, JSON or Parquet file or a folder in ScienceQA's"
        f" columns, or `sandbox`; {SEVERAL}. No judge is asked about them.",
    ),
]
Questions = Annotated[int | None, setting("bench.questions", "--questions")]
Dialogues = Annotated[int | None, setting("bench.dialogues", "--dialogues")]
MaxPixels = Annotated[int | None, setting("student.max_pixels", "--max-pixels")]
Concurrency = Annotated[int | None, setting("roles.<role>.concurrency", "--concurrency")]
Timeout = Annotated[float | None, setting("roles.<role>.timeout_s", "--timeout")]


def settings_of(context: typer.Context) -> dict[str, Any]:
    """The config that the options make: each that was given sets its key."""
    config: dict[str, Any] = {"student": {}, "bench": {}, "roles": {role: {} for role in ASKED}}
    for key, option in OPTIONS.items():
        value = context.params[option.removeprefix("--").replace("-", "_")]
        if value is None:
            continue
        section, *roles, name = key.split(".")
        if section == "roles":
            for role in ASKED if roles == ["<role>"] else roles:
                config["roles"][role][name] = value
        else:
            config[section][name] = value
    return config


# Modes ------------------------------------------------------------------------

Mode = Literal["CONFIG", "--model", "--judge-only"]
_ALWAYS = {"out", "fresh", "no_check", "protocol"}
_JUDGING = {
    *("judge_model", "judge_base_url", "judge_api_key_env", "judge_max_tokens", "judge_pictures"),
    *("judge_requests", "verdict"),
}
_USED = {
    "CONFIG": {*_ALWAYS, "config", "limit", "stub", "override"},
    "--judge-only": {*_ALWAYS, *_JUDGING, "judge_only", "concurrency", "timeout"},
}
"""The parameters of `bench` that have an effect with CONFIG and with --judge-only. With --model, all but
--stub and --override have."""


def mode_of(context: typer.Context) -> Mode:
    """What is to be measured. Raises `UserError` if nothing is named, or several; or an option was typed that
    has no effect then."""
    given = context.params
    if given["stub"] and given["config"] is None:
        raise UserError("bench: --stub works with CONFIG; it replaces the models that CONFIG names")
    named: dict[Mode, object] = {
        "CONFIG": given["config"],
        "--model": given["model"] or None,
        "--judge-only": given["judge_only"],
    }
    modes = [mode for mode, value in named.items() if value is not None]
    if len(modes) != 1:
        raise UserError(
            "bench: give either CONFIG, for the models of a run, or --model, for those behind endpoints, or"
            " --judge-only, for answers that an earlier bench kept"
        )
    [mode] = modes
    if mode == "--model" and given["override"]:
        raise UserError("bench: --override has no effect with --model; it has no gates")
    for parameter in context.command.params if mode in _USED else ():
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source and source.name == "COMMANDLINE" and name not in _USED[mode]:
            fix = "change the config instead" if mode == "CONFIG" else "it is as in the bench that is judged"
            raise UserError(f"bench: {parameter.opts[0]} has no effect with {mode}; {fix}")
    return mode


class ByProtocol:
    """The sampling of a protocol, for roles; without a file, nothing changes."""

    def __init__(self, context: typer.Context, file: Path | None) -> None:
        from safer_steer.bench.protocol import read

        self.context, self.protocol = context, read(file) if file else None

    def sampled(self, prefix: str, role: dict[str, Any]) -> dict[str, Any]:
        """The settings of a role as the protocol asks it, but for options that were typed. `prefix` is what
        their names begin with, `judge_` for instance."""
        settings = self.protocol.sampling(prefix, role["model"]) if self.protocol else {}
        return role | {name: value for name, value in settings.items() if not self._typed(prefix + name)}

    def _typed(self, option: str) -> bool:
        source = self.context.get_parameter_source(option)
        return source is not None and source.name == "COMMANDLINE"


# Names in errors --------------------------------------------------------------

_KEY = re.compile(r"\b(?:roles|student|bench)(?:\.[a-z_]+)+")


def _option(key: re.Match[str]) -> str:
    """What the user typed for a key. `--adaptive` sets those of `bench.adaptive`; one without an option keeps
    its name."""
    name = re.sub(r"^roles\.\w+\.(concurrency|timeout_s)$", r"roles.<role>.\1", key[0])
    names = OPTIONS | NAMES
    if name.startswith("bench.adaptive.") and name not in names:
        return f"--adaptive {name.removeprefix('bench.adaptive.')}"
    return names.get(name, key[0])


@contextmanager
def options_named() -> Iterator[None]:
    """Errors name the options of the command line, not the config keys behind them."""
    try:
        yield
    except (UserError, NoResult) as error:
        line = _KEY.sub(_option, str(error))
        raise (NoResult if isinstance(error, NoResult) else UserError)(line) from None
