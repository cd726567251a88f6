"""The estimate as a table: one line per peak, which stages do not fit, and the assumptions."""

from __future__ import annotations

from dataclasses import fields

from rich.console import Console
from rich.table import Table

from safer_steer.config import Config
from safer_steer.errors import UserError
from safer_steer.plan.memory import GB, MARGIN, PROMPT_TOKENS, Memory, estimate, too_large
from safer_steer.plan.model_shape import shape_of
from safer_steer.report.fitted_table import fitted

PARTS = [field.name for field in fields(Memory) if field.name != "peak"]


def memory_plan(config: Config, processes: int, card: float | None) -> tuple[list[Memory], list[str]]:
    """The peaks of a run and the lines to print below them. If the model's config cannot be loaded: no peaks
    and one line.

    Args:
        card: bytes of the GPU; None uses the first GPU of this machine, if any.
    """
    try:
        shape = shape_of(config.student.base, config.student)
    except UserError as error:
        return [], [f"no estimate: {error}"]
    card = card or _card()
    on_cpu = config.student.device == "cpu" or (config.student.device == "auto" and card is None)
    if on_cpu:
        on_cpu_student = config.student.model_copy(update={"device": "cpu"})
        config = config.model_copy(update={"student": on_cpu_student})
    peaks = estimate(config, shape, processes)
    fit = _fit(peaks, card)
    if on_cpu:
        fit = ["The student runs on the CPU here: this is memory of the machine.", *fit]
    if not shape.vision_layers:
        fit.append("Activations of the vision tower are not known for this tower and not counted.")
    return peaks, [*fit, *_assumptions(config, processes)]


def memory_table(console: Console, peaks: list[Memory]) -> Table:
    """A table in GB (1e9 bytes), one row per peak and one column per part."""
    rows = []
    for peak in peaks:
        parts = [_gb(getattr(peak, part)) for part in PARTS]
        rows.append((peak.peak, *parts, _gb(peak.total)))
    head = ("GB", *("key/value cache" if part == "cache" else part for part in PARTS), "total")
    return fitted(console, head, rows, numbers=range(1, len(head)), whole=range(1))


def _gb(value: float) -> str:
    if not value:
        return "-"
    return f"{value / GB:.1f}" if value >= 0.05 * GB else "< 0.1"


def _card() -> float | None:
    import torch

    return float(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def _fit(peaks: list[Memory], card: float | None) -> list[str]:
    if card is None:
        return ["This machine has no GPU. Give a card's size with --gpu-memory GB to see which stages fit."]
    large = too_large(peaks, card)
    if not large:
        return [f"All stages fit a card of {card / GB:.0f} GB, with {MARGIN:.0%} left free."]
    return [
        f"{peak.stage} does not fit a card of {card / GB:.0f} GB with {MARGIN:.0%} left free:"
        f" it needs {peak.total / GB:.1f} GB ({peak.peak}). docs/how-to/memory.md says what to change."
        for peak in large
    ]


def _assumptions(config: Config, processes: int) -> list[str]:
    student = config.student
    shared = "One process on one card."
    if processes > 1 and student.sharding == "full":
        shared = (
            f"{processes} processes train, each on its own card (FSDP2). Each holds a share of weights,"
            " gradients, moments and trajectories; casts are what it gathers of the others'."
        )
    elif processes > 1:
        shared = (
            f"{processes} processes train, each on its own card (DDP). Each holds all weights, gradients and"
            " moments, and a share of the trajectories."
        )
    if config.rl.rollouts.engine == "vllm":
        shared += " Answers are sampled on vLLM servers, on other cards."
    return [
        f"{shared} The stages run one after the other.",
        f"Assumes that every dialogue is as long as the config allows, with one picture of"
        f" {student.max_pixels:,} pixels and a first prompt of {PROMPT_TOKENS} tokens, and that generation"
        f" batches are full ({student.generation_tokens:,} tokens).",
        "An estimate from the model's config (GB = 1e9 bytes); not measured on a GPU.",
    ]
