"""The `bench` command: measures a run's models, or any model behind an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from safer_steer.cli.app import Fresh, Out, app
from safer_steer.cli.stages import results
from safer_steer.config import Bench, Config, Role, Student, load_config
from safer_steer.dialogue import Format
from safer_steer.errors import UserError
from safer_steer.extras import require


@app.command()
def bench(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Bench the models of a run.")
    ] = None,
    out: Out = ...,  # type: ignore[assignment]  # typer's marker of a required option
    model: Annotated[str | None, typer.Option(help="Instead: the id of a model behind an endpoint.")] = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="Its OpenAI-compatible endpoint, for instance http://localhost:8000/v1."),
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Name of the environment variable with its key.")
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="JSONL file of scripts, or `sandbox`; may be given several times."),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(
            help="The judge; `sandbox` for the embedded one, which knows the sandbox's pictures alone."
        ),
    ] = None,
    judge_base_url: Annotated[str | None, typer.Option(help="The judge's endpoint.")] = None,
    judge_api_key_env: Annotated[
        str | None, typer.Option(help="Name of the environment variable with the judge's key.")
    ] = None,
    format: Annotated[
        Format,
        typer.Option(
            metavar="LAYOUT", help="Layout of its answers, asked for and read: plain or thinking_answer."
        ),
    ] = Format.PLAIN,
    ask_layout: Annotated[
        bool,
        typer.Option(help="Put the layout into the system message; a model trained on it needs no asking."),
    ] = True,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature of the model.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Token limit of one answer.")] = 2048,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls in flight, for model and judge each.")] = 64,
    dialogues: Annotated[
        int | None, typer.Option(min=1, help="At most so many attack, and so many safe, dialogues.")
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Measure a run's models (CONFIG), or any model behind an endpoint (--model)."""
    from safer_steer import pipeline
    from safer_steer.run.display import Display

    if (config is None) == (model is None):
        raise UserError(
            "bench: give either CONFIG, for the models of a run, or --model, for one behind an endpoint"
        )
    if model is None:
        settings = load_config(config)  # type: ignore[arg-type]  # exactly one of the two is given
        require("student", "bench CONFIG")
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
        judge = Role(
            model=str(judge_model),
            base_url=judge_base_url,
            api_key_env=judge_api_key_env,
            concurrency=concurrency,
        )
        try:
            settings = Config(
                name=model,
                student=Student(format=format),
                roles={"target": target, "judge": judge},
                bench=Bench(suites=suite or [], dialogues=dialogues),
            )
        except ValidationError as error:
            raise UserError(f"bench: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    with results(out), Display() as show:
        if model is None:
            pipeline.run_stage("bench", settings, out, show, fresh)
        else:
            pipeline.bench_endpoint(settings, model, out, show, fresh)
