"""The command line. Heavy imports wait inside the commands, so that `--help` is quick.

Exit codes: 0 done, 1 `verify` found differences, 2 something the user can mend (one line says what), 3 a bench that is
no result, 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from typer.core import TyperGroup

from safer_steer.config import Bench, Config, Role, Source, Student, describe, load_config
from safer_steer.dialogue import Format
from safer_steer.errors import NoResult, SpendingLimit, UserError
from safer_steer.tables import fitted

OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EADDRINUSE}
"""What the machine, and no mistake of ours, may say no to."""

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""What libraries say on their own account drowns what a run says."""


class _OneLine(TyperGroup):
    """Ends a command with one line on standard error, and no traceback, where the cause is no bug."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _end(f"error: {error}", 2)
        except NoResult as error:
            _end(f"no result: {error}", 3)
        except SpendingLimit as error:
            _end(f"spending limit: {error}", 2)
        except KeyboardInterrupt:
            _end("interrupted; run the same command to go on", 130)
        except OSError as error:
            if error.errno not in OUTSIDE:
                raise
            _end(f"error: {error.filename or 'this machine'}: {error.strerror}; mend that and run the same command to go on", 2)


def _end(line: str, code: int) -> None:
    typer.echo(" ".join(line.split()), err=True)
    raise typer.Exit(code)


app = typer.Typer(
    cls=_OneLine, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Vision-language models that hold in dialogue."
)
sandbox = typer.Typer(cls=_OneLine, no_args_is_help=True, help="The embedded world: its student, its suites, its agents.")
app.add_typer(sandbox, name="sandbox")

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `safer-steer config` lists its keys.")]
Out = Annotated[Path, typer.Option("--out", help="Run folder. The same command again goes on where it stopped.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over: delete what a run wrote there. Paid replies (cache.sqlite) stay.")]


@app.command()
def run(
    config: ConfigFile,
    out: Out,
    fresh: Fresh = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print config, roles, data and trainer arguments; call, load and write nothing.")] = False,
) -> None:
    """The whole method, from seeds to report."""
    settings = load_config(config)
    if dry_run:
        from safer_steer.dryrun import dry_run as planned

        typer.echo(yaml.safe_dump(planned(settings, out), sort_keys=False, allow_unicode=True, width=160), nl=False)
        return
    from safer_steer import pipeline
    from safer_steer.display import Display

    with _results(out), Display() as show:
        pipeline.run(settings, out, show, fresh)


def _stage(name: str, summary: str) -> None:
    """A command that does one stage alone."""

    def command(config: ConfigFile, out: Out, fresh: Fresh = False) -> None:
        _run_stage(name, config, out, fresh)

    app.command(name, help=summary)(command)


def _run_stage(name: str, config: Path, out: Path, fresh: bool) -> None:
    from safer_steer import pipeline
    from safer_steer.display import Display

    settings = load_config(config)
    with Display() as show:
        pipeline.run_stage(name, settings, out, show, fresh)


for _name, _summary in {
    "seeds": "Stage I alone: scripts from single-turn pairs.",
    "assemble": "The data sets alone: STEER-SFT, STEER-RL and STEER-Bench from the scripts.",
    "bootstrap": "Stage II alone: red-blue dialogues and their filter.",
    "sft": "Stage II alone: supervised fine-tuning on the dialogues kept.",
    "rl": "Stage III alone: tutor-in-the-loop GRPO.",
}.items():
    _stage(_name, _summary)


@app.command()
def bench(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="Bench the models of a run.")] = None,
    out: Out = ...,  # type: ignore[assignment]  # typer's mark of a required option
    model: Annotated[str | None, typer.Option(help="Instead: the id of a model behind an endpoint.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Its OpenAI-compatible endpoint, for instance http://localhost:8000/v1.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Name of the environment variable with its key.")] = None,
    suite: Annotated[list[str] | None, typer.Option(help="JSONL file of scripts, or `sandbox`; may be given several times.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge; `sandbox` for the embedded one, which knows the sandbox's pictures alone.")] = None,
    judge_base_url: Annotated[str | None, typer.Option(help="The judge's endpoint.")] = None,
    judge_api_key_env: Annotated[str | None, typer.Option(help="Name of the environment variable with the judge's key.")] = None,
    format: Annotated[Format, typer.Option(metavar="LAYOUT", help="Layout of its answers, asked for and read: plain or thinking_answer.")] = Format.PLAIN,
    ask_layout: Annotated[bool, typer.Option(help="Put the layout into the system message; a model trained on it needs no asking.")] = True,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature of the model.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Token limit of one answer.")] = 2048,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls in flight, for model and judge each.")] = 64,
    dialogues: Annotated[int | None, typer.Option(min=1, help="At most so many attack, and so many safe, dialogues.")] = None,
    fresh: Fresh = False,
) -> None:
    """Measure the models of a run (CONFIG), or any model behind an endpoint (--model)."""
    from safer_steer import pipeline
    from safer_steer.display import Display

    if (config is None) == (model is None):
        raise UserError("bench: give either CONFIG, for the models of a run, or --model, for one behind an endpoint")
    if model is None:
        settings = load_config(config)  # type: ignore[arg-type]  # one of the two is given
    else:
        for option, value in (("--base-url", base_url), ("--suite", suite), ("--judge-model", judge_model)):
            if not value:
                raise UserError(f"bench: --model needs {option} too")
        target = Role(
            model=model,
            base_url=base_url,
            api_key_env=api_key_env,
            temperature=temperature,
            max_tokens=max_tokens,
            concurrency=concurrency,
            ask_layout=ask_layout,
        )
        judge = Role(model=str(judge_model), base_url=judge_base_url, api_key_env=judge_api_key_env, concurrency=concurrency)
        try:
            settings = Config(
                name=model, student=Student(format=format), roles={"target": target, "judge": judge}, bench=Bench(suites=suite or [], dialogues=dialogues)
            )
        except ValidationError as error:
            raise UserError(f"bench: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    with _results(out), Display() as show:
        if model is None:
            pipeline.run_stage("bench", settings, out, show, fresh)
        else:
            pipeline.bench_endpoint(settings, model, out, show, fresh)


@app.command()
def cost(
    config: ConfigFile,
    sample: Annotated[int, typer.Option(min=1, help="Pairs, and bench dialogues, that the estimate is made from.")] = 40,
    success: Annotated[float, typer.Option(min=0, max=1, help="Share of the red-team scripts tried that succeed.")] = 0.5,
    keeps: Annotated[float, typer.Option(min=0, max=1, help="Share of the scripts that keep a rule of assembly.")] = 0.8,
    turn_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a user turn that a model writes.")] = 30,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an assistant's visible answer.")] = 150,
    tokens_per_second: Annotated[float, typer.Option(min=0.1, help="Speed of one reply.")] = 40,
    overhead: Annotated[float, typer.Option(min=0, help="Share of calls that are made again.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Plain numbers, for machines.")] = False,
) -> None:
    """Calls, tokens, money and time of a whole run, from a sample of its data; nothing is called."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # a set that is not here yet is an error, and not a download
    from safer_steer.cost import Assumptions, show

    assumed = Assumptions(sample, success, keeps, turn_tokens, answer_tokens, tokens_per_second, overhead)
    show(load_config(config), assumed, _console(100), as_json)


@app.command()
def report(config: ConfigFile, out: Out) -> None:
    """The page of what a run has done so far."""
    _run_stage("report", config, out, fresh=False)
    typer.echo(f"report: {out / 'report.html'}")


def _console(width: int) -> Console:
    """Standard output; `width` columns where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=width)


@contextmanager
def _results(out: Path) -> Iterator[None]:
    """Prints the headline table and where the report is when the work inside is done, also if it is no result."""
    try:
        yield
    except NoResult:
        _show_results(out)
        raise
    _show_results(out)


def _show_results(out: Path) -> None:
    summary, page = out / "summary.json", out / "report.html"
    if summary.is_file():
        from safer_steer.report import console_table

        _console(100).print(console_table(json.loads(summary.read_bytes())))
    if page.is_file():
        typer.echo(f"report: {page}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")],
    to: Annotated[Path | None, typer.Option(help="Folder of the export, `export` in the run folder if not given. An older export there is replaced.")] = None,
    name: Annotated[str, typer.Option(help="Name of the data set.")] = "steer",
) -> None:
    """Hand a run's data to trainers: Parquet with a card (the hub, TRL), LLaMA-Factory, verl."""
    from safer_steer.handover.export import export as hand_over
    from safer_steer.handover.tally import label

    to = to or folder / "export"
    tallies, missing = hand_over(folder, to, name)
    for tally in tallies:
        typer.echo(f"{label(tally)}: {tally.dialogues} dialogues, {len(tally.pictures)} pictures")
    for line in missing:
        typer.echo(line)
    typer.echo(f"export: {to}")


@app.command()
def verify(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder, or an export.")]) -> None:
    """Hash every artefact of a run or an export again and name what differs from its manifest."""
    from safer_steer.manifest import verify as differences

    found = differences(folder)
    for line in found:
        typer.echo(line)
    if found:
        raise typer.Exit(1)
    typer.echo(f"{folder}: every file is as its manifest has it")


@app.command("sets")
def known_sets() -> None:
    """The published sets whose layout is known; docs/data.md shows how to give each."""
    from safer_steer.seeds.sources.layouts import LAYOUTS

    head = ("name", "hub id", "configurations: splits", "what it is", "Stage I")
    rows = [(name, layout.hub or "-", layout.parts, layout.about, "yes" if layout.stage_1 else "suite only") for name, layout in LAYOUTS.items()]
    console = _console(200)
    console.print(fitted(console, head, rows, whole=(0, 1)), crop=False)
    typer.echo("For the licence of a set, see its card.")


@app.command()
def suite(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A set of `safer-steer sets`, or a name of your own.")],
    out: Annotated[Path, typer.Option(help="JSONL file to write; harmless rows of a set that has both go to NAME_safe.jsonl beside it.")],
    path: Annotated[str | None, typer.Option(help="File or folder of the set.")] = None,
    hub: Annotated[str | None, typer.Option(help="Instead: its id on the hub; `default` for the published one.")] = None,
    subset: Annotated[str | None, typer.Option(help="Configuration of the set.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the set.")] = None,
    images: Annotated[str | None, typer.Option(help="Folder that picture paths are relative to.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Draw so many, seeded.")] = None,
    seed: Annotated[int, typer.Option(help="What the draw follows from.")] = 0,
    bad_rows: Annotated[str, typer.Option(help="`error` or `skip`: what an unusable row does.")] = "error",
    max_pixels: Annotated[int, typer.Option(min=784, help="A picture with more is unusable.")] = Student().max_pixels,
) -> None:
    """Write a suite for the bench from a published set."""
    from safer_steer.bench.from_set import write_suite

    if (path is None) == (hub is None):
        raise UserError("suite: give either --path or --hub")
    try:
        source = Source.model_validate(
            {"name": name, "path": path, "hub": hub, "subset": subset, "split": split, "images": images, "limit": limit, "bad_rows": bad_rows}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"suite: {': '.join([*map(str, first['loc']), first['msg'].removeprefix('Value error, ')])}") from None
    files, left_out = write_suite(source, out, seed, max_pixels)
    for file, count in files.items():
        typer.echo(f"{file}: {count} scripts")
    if left_out:
        typer.echo(left_out)


@app.command()
def health(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder, also of a run under way.")],
    as_json: Annotated[bool, typer.Option("--json", help="Plain numbers, for machines.")] = False,
) -> None:
    """Attackers' refusals, empty turns and repeats, which strategies work, and whether the judges judge."""
    from safer_steer.health import examine, tables

    found = examine(folder)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
        return
    console, all_shown = _console(160), tables(found)
    for shown in all_shown:
        console.print(fitted(console, shown.head, shown.rows, numbers=range(shown.labels, len(shown.head)), title=shown.title), crop=False)
        console.print(f"{shown.note}\n", markup=False, highlight=False)
    if not all_shown:
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder}: no config.yaml in it; give the folder of a run")
        typer.echo(f"{folder}: no attacker and no judge has been at work in it yet")


@app.command("config")
def config_keys() -> None:
    """Every key of the config: type, default, what it is."""
    console = _console(240)
    console.print(fitted(console, ("key", "type", "default", ""), list(describe()), whole=(0,)), crop=False)


@sandbox.command()
def train_base(
    out: Annotated[Path, typer.Option(help="Folder for weights and processor.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 1500,
    batch_size: Annotated[int, typer.Option(min=1, help="Dialogues in a step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Peak; cosine with warm-up.")] = 1e-3,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    start: Annotated[Path | None, typer.Option(help="Go on from the student in this folder instead of from nothing.")] = None,
) -> None:
    """Train the sandbox's base student from nothing."""
    from safer_steer.preflight import use_cores

    use_cores()
    from safer_steer.sandbox.train_base import train_base as train

    train(out, steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed, start=start, device=device, log=typer.echo)


@sandbox.command()
def suites(
    out: Annotated[Path, typer.Option(help="Folder for the JSONL files and their pictures.")],
    marked: Annotated[int, typer.Option(min=0, help="Attack dialogues, and as many single turns.")] = 60,
    unmarked: Annotated[int, typer.Option(min=0, help="Their safe twins.")] = 60,
    seed: Annotated[int, typer.Option(help="Another seed makes other suites; runs use 0.")] = 0,
) -> None:
    """Write the benchmark's suites, for instance for a model behind an endpoint."""
    from safer_steer.sandbox.suites import write_suites

    for protocol, files in write_suites(out, marked, unmarked, seed).items():
        for file in files:
            typer.echo(f"{protocol}: {file}")


@sandbox.command()
def serve(port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8100) -> None:
    """Put the sandbox's agents behind an OpenAI-compatible endpoint on this machine."""
    from safer_steer.sandbox.serve import serve as forever

    try:
        forever(port, lambda url: typer.echo(f"serving {url} (model: sandbox); stop with Ctrl-C"))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise UserError(f"sandbox serve: port {port} is taken; give another with --port, or 0 for a free one") from None


def main() -> None:
    """The entry point."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    app()
