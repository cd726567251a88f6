"""The `judge-check` command: how far the judge of a bench can be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safer_steer.cli.app import app, console
from safer_steer.config.file import config_in
from safer_steer.errors import UserError, require

if TYPE_CHECKING:
    from safer_steer.bench.judge_check.played import ScoredBench
    from safer_steer.dialogue import Format


@app.command("judge-check")
def judge_check(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a bench whose answers are scored.")
    ],
    labels: Annotated[
        Path | None, typer.Option(help="CSV file of people's labels; docs/how-to/judge.md has its columns.")
    ] = None,
    second: Annotated[
        Path | None,
        typer.Option(help="Folder of the same answers scored by another judge: RUN/judged/NAME."),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=0, help="Ask the judge so many more times about a sample of its dialogues.")
    ] = 0,
    probes: Annotated[
        int,
        typer.Option(
            min=0,
            help="Ask the judge about so many dialogues with additions that must not change a verdict: a"
            " disclaimer, a claimed score, a compliment and the like. A verdict for each addition and turn.",
        ),
    ] = 0,
    template: Annotated[
        Path | None,
        typer.Option(help="Instead: write a CSV file for people to fill in, without the judge's scores."),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=1, help="Dialogues drawn at random, for --repeats and --template.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Of the sample of --template.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain numbers as JSON.")] = False,
) -> None:
    """Compare a bench's judge with people, with itself and with another judge; correct its rates."""
    from safer_steer.bench.judge_check import measured
    from safer_steer.bench.judge_check.file import note, read_check
    from safer_steer.bench.judge_check.labels import drawn, enough_said, read_labels, write_sheet
    from safer_steer.bench.judge_check.played import played_in
    from safer_steer.report.fitted_table import print_tables
    from safer_steer.report.judge_tables import judge_tables, warning
    from safer_steer.run.folder import report_again

    if template and (labels or second or repeats or probes):
        raise UserError("judge-check: --template writes a sheet and checks nothing; give it alone")
    config, bench = config_in(run, "an earlier `safer-steer bench --out`"), played_in(run)
    format = config.student.format
    if template:
        dialogues = {place: bench.dialogues[place] for place in drawn(bench.dialogues, sample, seed)}
        turns = write_sheet(dialogues, format, template)
        typer.echo(f"{template}: {turns} turns of {len(dialogues)} dialogues; pictures are relative to {run}")
        typer.echo(enough_said(dialogues, bench.dialogues))
        return
    check = read_check(run)
    if not (labels or second or repeats or probes or check):
        raise UserError(
            "judge-check: give --labels, --second, --repeats or --probes, or --template for a sheet to"
            " fill in"
        )
    if labels or second or repeats:  # agreement is Krippendorff's alpha, too
        require("judge", "judge-check")
    parts = {"judge": measured.of_judge(config)}
    if labels:
        parts["people"] = measured.against_people(
            bench, read_labels(labels, bench.dialogues), format, config.seed
        )
    if second:
        parts["second"] = measured.against_judge(bench, played_in(second), format, config.seed)
    if repeats or probes:
        parts |= _ask_again(run, bench, repeats, probes, sample, format)
    check = note(run, parts)
    if (run / "report.html").is_file():
        typer.echo(f"report: {report_again(run)}", err=True)
    if as_json:
        typer.echo(json.dumps(check, indent=1))
        return
    print_tables(console(160), judge_tables(check))
    if line := warning(check):
        typer.echo(f"warning: {line}")


def _ask_again(
    run: Path, bench: ScoredBench, repeats: int, probes: int, sample: int, format: Format
) -> dict[str, Any]:
    """What more verdicts of the judge say: of the same answers, and of answers with additions."""
    from safer_steer.bench.judge_check import measured
    from safer_steer.bench.judge_check.probes import under_pressure
    from safer_steer.run.display import Display
    from safer_steer.run.measuring import judge_again

    parts: dict[str, Any] = {}
    with Display() as show:
        if repeats:
            times = measured.repeated(repeats)
            subset, again = judge_again(run, bench, times, sample, show, "repeats")
            parts["repeats"] = measured.against_itself(subset, list(again.values()))
        if probes:
            subset, again = judge_again(run, bench, measured.probed(format), probes, show, "probes")
            parts["probes"] = under_pressure(subset, again)
    return parts
