"""Commands for data: published data sets, suites made from them, export, and verification."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import ValidationError

from safer_steer.cli.app import app, console, say
from safer_steer.config import ModelName, Source
from safer_steer.config.file import in_words
from safer_steer.config.keys import describe
from safer_steer.errors import ExitCode, UserError, require
from safer_steer.report.fitted_table import fitted

if TYPE_CHECKING:
    from safer_steer.bench.look import Look, Size
    from safer_steer.run.folder import Show
    from safer_steer.workers import Progress

_OF_SOURCE = {key: f"{text[0].upper()}{text[1:]}." for key, *_, text in describe(Source)}
"""What the keys of a source are, as help."""


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")],
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the export; by default `export` in the run folder, where it replaces an older"
            " one. With --answers it must be new or empty, and is `answers` by default."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the data set.")] = "steer",
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Instead of the data: write the trained model to this empty or new folder, to be served.",
        ),
    ] = None,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers",
            help="Instead of the data: write answers, verdicts and protocol of the bench, so that anyone can"
            " count every number again (`verify`) or judge anew (`bench --judge-only`).",
        ),
    ] = False,
    which: Annotated[
        Literal["sft", "safer_steer"] | None,
        typer.Option(help="With --model: which model; by default the last one that the run has trained."),
    ] = None,
) -> None:
    """Export a run's data for other trainers (the hub and TRL, LLaMA-Factory, verl), or its trained model, or
    its answers."""
    if answers:
        if model is not None or which is not None:
            raise UserError("export: --answers and --model are two exports; give one of them")
        from safer_steer.export.answers import export_answers

        to = to or folder / "answers"
        for line in export_answers(folder, to):
            say(line)
        typer.echo(f"export: {to}")
        return
    if model is not None:
        _export_model(folder, to, model, which)
        return
    if which is not None:
        raise UserError("export: --which needs --model DIR")
    from safer_steer.export.card import label
    from safer_steer.export.write import export as hand_over

    to = to or folder / "export"
    tallies, missing = hand_over(folder, to, name)
    for tally in tallies:
        say(f"{label(tally)}: {tally.dialogues} dialogues, {len(tally.pictures)} pictures")
    for line in missing:
        say(line)
    typer.echo(f"export: {to}")


def _export_model(folder: Path, to: Path | None, model: Path, which: ModelName | None) -> None:
    from safer_steer.export.model import export_model

    if to is not None:
        raise UserError("export: --to is for the data and --model for the model; give one of them")
    require("student", "export --model")
    name, remainder = export_model(folder, model, which)
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    typer.echo(f"{name}: {size / 1e9:,.2f} GB of weights, with processor, chat template and card")
    if remainder:
        typer.echo(f"{name}: its adapter is merged into the base; {remainder}")
    typer.echo(f"export: {model}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder, or an export.")],
) -> None:
    """Check a run's or an export's files, and a run's inputs, against the hashes in its manifest; of exported
    answers, count every number again. Exit code 1 if one differs."""
    from safer_steer.files.manifest import Manifest, not_compared
    from safer_steer.files.manifest import verify as differences

    changes, answers = differences(folder), "answers" in Manifest(folder).stages
    if answers and not changes:
        from safer_steer.bench.recount import recounted

        if differing := recounted(folder):
            changes = [f"summary.json: another number follows from the answers and verdicts: {differing}"]
    for line in (*changes, *not_compared(folder)):
        say(line)
    if changes:
        raise typer.Exit(ExitCode.DIFFERENCE)
    typer.echo(f"{folder}: every file matches the manifest")
    if answers:
        typer.echo(f"{folder}: every number in summary.json follows from its answers and verdicts")


@app.command("sets")
def known_sets() -> None:
    """List the published data sets that can be read as they are; docs/how-to/data.md shows how to use
    each."""
    from safer_steer.data.sources.sets import SETS

    head = ("name", "hub id", "configurations: splits", "what it is", "Stage I")
    rows = [
        (name, layout.hub or "-", layout.parts, layout.about, "yes" if layout.stage_1 else "suite only")
        for name, layout in SETS.items()
    ]
    screen = console(200)
    screen.print(fitted(screen, head, rows, whole=(0, 1)), crop=False)
    typer.echo("For the licence of a set, see its card.")


@app.command()
def suite(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A set of `safer-steer sets`, or a name of your own.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="JSONL file to write. If the set has harmless rows too, they go to NAME_safe.jsonl beside"
            " it."
        ),
    ] = None,
    show: Annotated[
        int | None,
        typer.Option(
            help="Instead of --out: write nothing, and print what is read: kinds, categories, pictures, what"
            " is left out and why, and the first so many scripts.",
        ),
    ] = None,
    path: Annotated[str | None, typer.Option(help="File or folder of the set.")] = None,
    hub: Annotated[str | None, typer.Option(help=_OF_SOURCE["hub"])] = None,
    subset: Annotated[str | None, typer.Option(help=_OF_SOURCE["subset"])] = None,
    split: Annotated[str | None, typer.Option(help=_OF_SOURCE["split"])] = None,
    images: Annotated[
        str | None, typer.Option(help="Folder that the picture paths in the set are relative to.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COLUMN",
            help="Read the file's COLUMN as NAME, for instance question=prompt. After == stands a text with"
            " {COLUMN} in it, for instance image==pictures/{id}.png. May be given several times.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Leave this column out; may be given several times."),
    ] = None,
    own: Annotated[bool, typer.Option("--own", help=_OF_SOURCE["own"])] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Draw at most this many rows at random.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    bad_rows: Annotated[str, typer.Option(help=_OF_SOURCE["bad_rows"])] = "error",
) -> None:
    """Write a suite for the bench from a published data set, or look at what it would hold."""
    if (path is None) == (hub is None):
        raise UserError("suite: give either --path or --hub")
    keys = ("name", "path", "hub", "subset", "split", "images", "own", "limit", "bad_rows")
    settings = {key: context.params[key] for key in keys}
    settings |= {"columns": _columns(column or []), "ignore": ignore or []}
    try:
        source = Source.model_validate(settings)
    except ValidationError as error:
        raise UserError(f"suite: {in_words(error, Source)}") from None
    _write_or_show(source, out, show, seed)


def _write_or_show(source: Source, out: Path | None, show: int | None, seed: int) -> None:
    from safer_steer.bench.from_set import write_suite
    from safer_steer.bench.look import look_at
    from safer_steer.run.display import Display

    if show is not None and show < 1:
        raise UserError(f"suite: --show: is {show}; give 1 or more")
    if (out is None) == (show is None):
        raise UserError("suite: give either --out FILE, to write the suite, or --show 3, to look at it first")
    with Display() as display:
        progress = _begun_later(display)
        if out is None:
            look = look_at(source, seed, show or 0, progress)
        else:
            files, left_out = write_suite(source, out, seed, progress)
    if out is None:
        _print_look(look, source)
        return
    for file, count in files.items():
        typer.echo(f"{file}: {count} scripts")
    if left_out:
        say(left_out)


def _print_look(look: Look, source: Source) -> None:
    from safer_steer.data.sources.load import label, left_out_in_words

    kinds = sorted(look.kinds, reverse=True)
    counts = ", ".join(f"{look.kinds[kind]} {kind}" for kind in kinds)
    twins = f"; {look.pairs} pairs of twins" if look.pairs else ""
    say(f"{label(source)}: {look.rows} rows, {look.kinds.total()} scripts ({counts}){twins}")
    if left_out := left_out_in_words(look.skipped):
        say(left_out)
    turns = ", ".join(f"{look.turns[number]} of {number}" for number in sorted(look.turns))
    typer.echo(f"by user turns: {turns}")
    typer.echo(f"pictures: {_sizes(look)}")
    screen = console(160)
    rows = [
        [category, *(str(by_kind[kind]) for kind in kinds)] for category, by_kind in look.categories.items()
    ]
    numbers = range(1, 1 + len(kinds))
    typer.echo()
    screen.print(fitted(screen, ("category", *kinds), rows, numbers=numbers), crop=False)
    first = [
        (row.id, row.kind, row.category, ", ".join(map(_size, row.pictures)) or "none", row.question)
        for row in look.first
    ]
    head = ("id", "kind", "category", "pictures", "first turn")
    typer.echo()
    screen.print(fitted(screen, head, first, whole=(0,)), crop=False)


def _sizes(look: Look) -> str:
    """The pictures of a look in words: how many, the smallest, the largest and the most frequent size."""
    without = f"; {look.pictureless} scripts without one" if look.pictureless else ""
    if not look.sizes:
        return f"none{without}"
    smallest, largest = (end(look.sizes, key=prod) for end in (min, max))
    ((frequent, count),) = look.sizes.most_common(1)
    spread = f"all {_size(frequent)} pixels"
    if len(look.sizes) > 1:
        spread = f"from {_size(smallest)} to {_size(largest)} pixels, {count} of them {_size(frequent)}"
    return f"{look.sizes.total()}, {spread}{without}"


def _size(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _columns(entries: Sequence[str]) -> dict[str, str]:
    """`columns` of a source from NAME=COLUMN. Raises `UserError`."""
    columns = {}
    for entry in entries:
        name, _, column = entry.partition("=")
        if not (name and column):
            raise UserError(f"suite: --column {entry}: give NAME=COLUMN, for instance question=prompt")
        columns[name] = column
    return columns


def _begun_later(show: Show) -> Progress:
    """The progress of the command, shown from the first row on, so that an error before it stays one line."""
    begun: list[Progress] = []

    def progress(done: int, total: int, failed: int = 0) -> None:
        if not begun:
            begun.append(show.stage("suite: rows"))
        begun[0](done, total, failed)

    return progress
