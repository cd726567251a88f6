"""The options of `bench`: types and help, which have an effect in which mode, and their names in errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from safer_steer.config import Student
from safer_steer.config.typographic import Layout as DrawnLayout
from safer_steer.dialogue import Format
from safer_steer.errors import NoResult, UserError

MODEL, JUDGE, ATTACKER = "Models behind endpoints", "Judge", "Attackers that adapt"
"""Headings of the help."""
Pictures = Literal["true", "false", "caption"]
MOST_PIXELS, SYSTEM = Student().max_pixels, Student().system
SEVERAL = "may be given several times"

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
        "--api-key-env",
        help="Name of the environment variable with its key. With several --base-url, one for each, '' for"
        " none.",
        rich_help_panel=MODEL,
    ),
]
Layout = Annotated[
    Format,
    typer.Option(
        "--format",
        metavar="LAYOUT",
        help="Layout of the answers, asked for and read: plain or thinking_answer.",
        rich_help_panel=MODEL,
    ),
]
AskLayout = Annotated[
    bool,
    typer.Option(
        help="Ask for the layout in the system message; a model trained on it needs no asking.",
        rich_help_panel=MODEL,
    ),
]
System = Annotated[
    str,
    typer.Option(
        help="System message of every dialogue; that of the training, for a trained student.",
        rich_help_panel=MODEL,
    ),
]
Temperature = Annotated[
    float, typer.Option(min=0, help="Sampling temperature of the model.", rich_help_panel=MODEL)
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Token limit of one answer.", rich_help_panel=MODEL)]
SentPictures = Annotated[
    Pictures,
    typer.Option(
        help="What the model gets of a picture: itself, nothing, or a description by the judge.",
        rich_help_panel=MODEL,
    ),
]
JudgeModel = Annotated[
    str | None,
    typer.Option(
        help="The judge; `sandbox` is the embedded one, which knows only the sandbox's pictures.",
        rich_help_panel=JUDGE,
    ),
]
JudgeBaseUrl = Annotated[str | None, typer.Option(help="The judge's endpoint.", rich_help_panel=JUDGE)]
JudgeKeyEnv = Annotated[
    str | None,
    typer.Option(help="Name of the environment variable with the judge's key.", rich_help_panel=JUDGE),
]
JudgeMaxTokens = Annotated[
    int, typer.Option(min=1, help="Token limit of one verdict.", rich_help_panel=JUDGE)
]
JudgePictures = Annotated[
    Pictures,
    typer.Option(
        help="The same for the judge; the descriptions are then by the (first) model under test.",
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
JudgeRequests = Annotated[
    bool,
    typer.Option(
        "--judge-requests",
        help="The judge also says of each request whether it would enable harm, to see when it was refused.",
        rich_help_panel=JUDGE,
    ),
]
JudgeOnly = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Instead: score the answers kept in this run folder with the judge named here. The results go to"
        " RUN/judged/JUDGE, or to --out; those of RUN stay.",
        rich_help_panel=JUDGE,
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
AttackerBaseUrl = Annotated[
    str | None, typer.Option(help="The attackers' endpoint.", rich_help_panel=ATTACKER)
]
AttackerKeyEnv = Annotated[
    str | None,
    typer.Option(help="Name of the environment variable with the attackers' key.", rich_help_panel=ATTACKER),
]
AttackerMaxTokens = Annotated[
    int, typer.Option(min=1, help="Token limit of an attacker's move.", rich_help_panel=ATTACKER)
]
AttackerPictures = Annotated[
    Pictures,
    typer.Option(
        help="What the attackers get of a picture: itself, nothing, or a description by the judge.",
        rich_help_panel=ATTACKER,
    ),
]
AdaptiveKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--adaptive",
        metavar="KEY=VALUE",
        help="A key of bench.adaptive, such as tries=5 or intents=FILE (docs/how-to/adaptive.md);"
        f" {SEVERAL}.",
        rich_help_panel=ATTACKER,
    ),
]
Suites = Annotated[
    list[str] | None,
    typer.Option("--suite", help=f"JSONL file of scripts, or `sandbox`; {SEVERAL}."),
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
    typer.Option(
        help="Multiple-choice questions: a JSONL, JSON or Parquet file or a folder in ScienceQA's"
        f" columns, or `sandbox`; {SEVERAL}. No judge is asked about them."
    ),
]
Questions = Annotated[
    int | None, typer.Option(min=1, help="At most this many questions of each set, drawn at random.")
]
Dialogues = Annotated[
    int | None, typer.Option(min=1, help="Draw at most this many attack dialogues, and as many safe ones.")
]
MaxPixels = Annotated[
    int, typer.Option(min=784, help="A picture with more pixels is scaled down to this many.")
]
Concurrency = Annotated[int, typer.Option(min=1, help="Calls in flight, for each model and the judge.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds before a call to a model is tried again.")]

# Modes ------------------------------------------------------------------------

Mode = Literal["CONFIG", "--model", "--judge-only"]
_ALWAYS = {"out", "fresh", "no_check"}
_JUDGING = {
    *("judge_model", "judge_base_url", "judge_api_key_env", "judge_max_tokens", "judge_pictures"),
    "judge_requests",
}
_USED = {
    "CONFIG": {*_ALWAYS, "config", "limit", "stub"},
    "--judge-only": {*_ALWAYS, *_JUDGING, "judge_only", "concurrency", "timeout"},
}
"""The parameters of `bench` that have an effect with CONFIG and with --judge-only. With --model, all but
--stub have."""


def mode_of(context: typer.Context) -> Mode:
    """What is to be measured.

    Raises:
        UserError: nothing is named, or several; or an option was typed that has no effect then.
    """
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
    for parameter in context.command.params if mode in _USED else ():
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source and source.name == "COMMANDLINE" and name not in _USED[mode]:
            fix = "change the config instead" if mode == "CONFIG" else "it is as in the bench that is judged"
            raise UserError(f"bench: {parameter.opts[0]} has no effect with {mode}; {fix}")
    return mode


# Names in errors --------------------------------------------------------------

OPTIONS = {
    "roles.target.model": "--model",
    "roles.target.base_url": "--base-url",
    "roles.target.api_key_env": "--api-key-env",
    "roles.target.temperature": "--temperature",
    "roles.target.max_tokens": "--max-tokens",
    "roles.target.ask_layout": "--ask-layout",
    "roles.target.pictures": "--pictures",
    "roles.judge.model": "--judge-model",
    "roles.judge.base_url": "--judge-base-url",
    "roles.judge.api_key_env": "--judge-api-key-env",
    "roles.judge.max_tokens": "--judge-max-tokens",
    "roles.judge.pictures": "--judge-pictures",
    "roles.attacker": "--attacker-model",
    "roles.attacker.model": "--attacker-model",
    "roles.attacker.base_url": "--attacker-base-url",
    "roles.attacker.api_key_env": "--attacker-api-key-env",
    "roles.attacker.max_tokens": "--attacker-max-tokens",
    "roles.attacker.pictures": "--attacker-pictures",
    "student.format": "--format",
    "student.system": "--system",
    "student.max_pixels": "--max-pixels",
    "bench.targets": "--model",
    "bench.suites": "--suite",
    "bench.dialogues": "--dialogues",
    "bench.typographic": "--typographic",
    "bench.capability": "--capability",
    "bench.questions": "--questions",
    "bench.judged": "--no-judge",
    "bench.judge_requests": "--judge-requests",
    "bench.adaptive.attackers": "--attacker-model",
}
"""Config keys and the options that set them: messages name what the user typed. `--adaptive` sets the other
keys of `bench.adaptive`; a key without an option keeps its name."""
_KEY = re.compile(r"\b(?:roles|student|bench)(?:\.[a-z_]+)+")


def _option(key: re.Match[str]) -> str:
    name = key[0]
    if name.startswith("bench.adaptive."):
        return OPTIONS.get(name, f"--adaptive {name.removeprefix('bench.adaptive.')}")
    return OPTIONS.get(name, name)


@contextmanager
def options_named() -> Iterator[None]:
    """Errors name the options of the command line, not the config keys behind them."""
    try:
        yield
    except (UserError, NoResult) as error:
        line = _KEY.sub(_option, str(error))
        raise (NoResult if isinstance(error, NoResult) else UserError)(line) from None
