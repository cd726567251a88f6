"""Commands for the sandbox, the embedded world."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Annotated

import typer

from safer_steer.cli.app import sandbox
from safer_steer.errors import UserError

Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Dialogues per step.")]
LearningRate = Annotated[float, typer.Option(help="Peak of the learning rate, a cosine with warm-up.")]
Device = Annotated[str, typer.Option(help="Where it trains: cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


@sandbox.command()
def train_base(
    out: Annotated[Path, typer.Option(help="Folder for the weights and the processor.")],
    steps: Steps = 1500,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = 1e-3,
    drills: Annotated[
        bool,
        typer.Option("--drills", help="Train only on the structures that are learned last."),
    ] = False,
    device: Device = "cpu",
    seed: Seed = 0,
    start: Annotated[
        Path | None,
        typer.Option(help="Start from the student in this folder instead of from random weights."),
    ] = None,
) -> None:
    """Train the sandbox's base student from scratch."""
    from safer_steer.run.preflight import use_cores

    use_cores()
    from safer_steer.sandbox import train_base as base

    course = base.Course(steps, batch_size, learning_rate, seed, device)
    base.train_base(out, course, start, drills, typer.echo)


@sandbox.command()
def build_pretrained(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the student: `student.model`.")],
    align_steps: Annotated[int, typer.Option(min=1, help="Steps that teach the vision tower words.")] = 60,
    steps: Annotated[int, typer.Option(min=1, help="Steps that teach the language model the world.")] = 300,
    seed: Seed = 1,
    start: Annotated[
        Path | None, typer.Option(help="Let the student in this folder practise for so many steps instead.")
    ] = None,
) -> None:
    """Build a student of pretrained parts, SmolLM2-135M-Instruct and EfficientNet-Lite0: 139 M parameters.

    It takes about two and a half hours of one core, and 5 GB of memory. Work that was broken off goes on with
    the same command, to the same result on as many threads (OMP_NUM_THREADS).
    """
    from safer_steer.run.preflight import use_cores

    use_cores()
    from safer_steer.errors import require

    require("pretrained", "sandbox build-pretrained")
    from safer_steer.sandbox.pretrained import build
    from safer_steer.sandbox.pretrained_parts import installed_parts

    build(out, start or installed_parts(), align_steps=align_steps, steps=steps, seed=seed, log=typer.echo)


@sandbox.command()
def train_attacker(
    out: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    steps: Steps = 500,
    batch_size: BatchSize = 12,
    learning_rate: LearningRate = 2e-3,
    start: Annotated[
        Path | None, typer.Option(help="Train the adapter in this folder further, instead of a new one.")
    ] = None,
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """Train the sandbox's attacker, a LoRA adapter on the shipped base student."""
    from safer_steer.run.preflight import use_cores

    use_cores()
    from safer_steer.sandbox.train_attacker import train_attacker as train
    from safer_steer.sandbox.train_base import Course

    train(out, Course(steps, batch_size, learning_rate, seed, device), start, typer.echo)


@sandbox.command()
def suites(
    out: Annotated[Path, typer.Option(help="Folder for the JSONL files and their pictures.")],
    marked: Annotated[
        int, typer.Option(min=0, help="Number of attack dialogues, and of single-turn attacks.")
    ] = 60,
    unmarked: Annotated[int, typer.Option(min=0, help="Number of their safe twins.")] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the suites; runs use 0.")] = 0,
    natural: Annotated[bool, typer.Option("--natural", help="Those in held-out wordings instead.")] = False,
) -> None:
    """Write the sandbox's suites, for example to measure a model behind an endpoint on them."""
    from safer_steer.sandbox.suites import NATURAL, SANDBOX, write_suites

    files_of = write_suites(out, marked, unmarked, seed, NATURAL if natural else SANDBOX)
    for protocol, files in files_of.items():
        for file in files:
            typer.echo(f"{protocol}: {file}")


@sandbox.command()
def serve(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")
    ] = 8100,
) -> None:
    """Serve the sandbox's agents as an OpenAI-compatible endpoint on this machine."""
    from safer_steer.sandbox.serve import serve as forever

    try:
        forever(port, lambda url: typer.echo(f"serving {url} (model: sandbox); stop with Ctrl-C"))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise UserError(
            f"sandbox serve: port {port} is in use; choose another with --port, or 0 for a free one"
        ) from None
