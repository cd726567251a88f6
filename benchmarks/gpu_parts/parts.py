"""The parts of `gpu.py`, an entry each: how a part is measured, and the table that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from gpu_parts import rollouts, step, training
from gpu_parts.bench import WEIGHTS, Bench, Row, Sizes

PEAK = {"peak_gb": ("peak GB", ".1f")}
MEGABYTES = {"megabytes": ("MB", ",.0f")}
MEMORY = PEAK | {"planned_gb": ("estimate GB", ".1f")}
GAP = {"gap": ("gap, nats", ".2g"), "gap_max": ("largest", ".2g")}
RATE = {"tokens_per_s": ("tokens/s", ",.0f")}
SFT_STEP = RATE | {"seconds": ("s a step", ".2f"), "model_tflops": ("model TFLOP/s", ".1f")} | MEMORY
SPLIT = {"step_s": ("step, s", ".1f"), "rollouts_s": ("rollouts", ".1f")}
REST = {"training_s": ("training", ".1f"), "sync_s": ("sync", ".1f")}
BUSY = {"student_busy_s": ("student busy", ".1f"), "tutor_busy_s": ("tutor busy", ".1f")}


@dataclass(frozen=True)
class Part:
    """A measurement, described by its function's first line."""

    measure: Callable[[Bench], Iterator[Row]]
    lead: dict[str, str]
    """What tells its rows apart, with its heading."""
    rows: Callable[[Sizes], Iterable[tuple[Any, ...]]]
    """The values of `lead` of every row that is to be measured."""
    columns: dict[str, tuple[str, str]]
    """The numbers of the table: heading, and format."""
    lacks: Callable[[Bench], str] = lambda bench: ""
    """What it needs and has not; "" if it can run."""


PARTS = {
    "rollouts": Part(
        rollouts.rollouts,
        {"engine": "engine", "trajectories": "trajectories", "turns": "turns"},
        lambda sizes: [(engine, *row) for engine, rows in sizes.rollouts.items() for row in rows],
        RATE | {"seconds": ("s", ".1f")} | MEMORY,
    ),
    "training": Part(
        training.training,
        {"weights": "trained", "length": "tokens"},
        lambda sizes: product(WEIGHTS, sizes.lengths),
        SFT_STEP,
    ),
    "sharding": Part(
        training.sharding,
        {"weights": "trained", "processes": "processes"},
        lambda sizes: product(WEIGHTS, sizes.processes),
        SFT_STEP,
    ),
    "guard": Part(
        training.guard,
        {"checks": "checks"},
        lambda sizes: [(name,) for name in training.CHECKS],
        {"seconds": ("s a step", ".2f"), "share": ("more", ".1%")},
    ),
    "adapters": Part(
        training.adapters,
        {"adapter": "adapter"},
        lambda sizes: [("float32",), ("bfloat16",)],
        MEGABYTES
        | {"seconds": ("s a forward pass", ".3f")}
        | PEAK
        | {"shift": ("from no adapter, nats", ".2g")}
        | GAP,
    ),
    "step": Part(
        step.step,
        {"engine": "engine"},
        lambda sizes: [(engine,) for engine in sizes.rollouts],
        SPLIT | BUSY | REST | MEMORY | GAP,
    ),
    "sync": Part(
        rollouts.sync,
        {"weights": "weights"},
        lambda sizes: [(weights,) for weights in WEIGHTS],
        MEGABYTES | {"seconds": ("s", ".2f")} | GAP | PEAK,
        lambda bench: "" if bench.server else "a vLLM server: give vLLM's Python with --vllm",
    ),
    "verl": Part(
        step.verl,
        {"step": "step"},
        lambda sizes: [(1,), (2,)],
        SPLIT | REST | PEAK,
        lambda bench: "" if bench.gpu and bench.verl else "a GPU, and verl's Python with --verl",
    ),
}
"""By name, in the order of the page."""


def table(name: str, measured: list[Row], sizes: Sizes) -> list[str]:
    """A part's Markdown table. A row that was not measured says so; rows that nobody asked for come last."""
    part = PARTS[name]
    known = {tuple(row[key] for key in part.lead): row for row in measured if row["part"] == name}
    heads = [*part.lead.values(), *(heading for heading, _ in part.columns.values())]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for lead in dict.fromkeys([*part.rows(sizes), *known]):
        cells = [f"{value:,}" if isinstance(value, int) else value for value in lead]
        for key, (_, form) in part.columns.items():
            row = known.get(lead, {"failed": "not measured"})
            value = row.get(key)
            cells.append(row.get("failed", "-") if value is None else format(value, form))
        lines.append(f"| {' | '.join(cells)} |")
    return lines
