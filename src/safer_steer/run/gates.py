"""Holds a run to its gates: it stops where a quantity has left its band, unless that was overridden."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, get_args

from safer_steer.bench.twin_probe import forget_probes, probe
from safer_steer.config import Config
from safer_steer.config.gates import GateName
from safer_steer.errors import GateLeft, UserError
from safer_steer.report.health.gates import look
from safer_steer.report.health.quantities import QUANTITIES
from safer_steer.run.folder import Run
from safer_steer.student import processes

if TYPE_CHECKING:
    from safer_steer.episode import Assistant
    from safer_steer.training.trainers import AtCheckpoints


def hold(run: Run, stage: str, step: int | None = None) -> None:
    """Look at the gates of a stage: when it has ended, or in RL after a step.

    Raises:
        GateLeft: a quantity is out of its band; the first one.
    """
    if run.config.gates:
        processes.decided(partial(_hold, run, stage, step))


def _hold(run: Run, stage: str, step: int | None) -> None:
    where = stage if step is None else f"{stage}, step {step}"
    noted_before = {gate for gate in run.config.gates if run.manifest.overridden(stage, gate, step)}
    for one in look(run.folder, run.config.gates, stage):
        if one.reading is None and step is None:
            run.show.say(f"{where}: gate {one.gate} is not measured")
        if one.reading is None or not one.left:
            continue
        if one.gate not in noted_before:
            if one.gate not in run.override:
                raise GateLeft(f"{where}: {one.words}; --override {one.gate} goes on all the same")
            noted = {"value": one.reading.value, "band": one.band.model_dump(), "words": one.words}
            run.manifest.override(stage, one.gate, step, noted)
        run.show.say(f"{where}: gate overridden: {one.words}")


def at_checkpoints(run: Run) -> AtCheckpoints | None:
    """What RL does for its gates after step 1 and at each checkpoint; None if none of them is RL's."""
    from safer_steer.training.trainers import AtCheckpoints

    gates, check = run.config.gates, partial(hold, run, "rl")
    if not run.config.probes_twins:
        mine = any("rl" in QUANTITIES[gate].stages for gate in gates)
        return AtCheckpoints(check) if mine else None
    judges = run.judges()

    def play(assistant: Assistant, step: int) -> None:
        probe(run.config, run.folder, assistant, judges, run.wait, step)

    return AtCheckpoints(check, play, partial(forget_probes, run.folder))


def names(overrides: Iterable[str], *configs: Config) -> frozenset[str]:
    """The gates of `--override`. Raises `UserError` if one is none of these configs'."""
    there = dict.fromkeys(gate for config in configs for gate in config.gates)
    for name in overrides:
        if name not in get_args(GateName):
            raise UserError(f"--override {name}: is no gate; use {', '.join(there or get_args(GateName))}")
        if not there and any(config.limit or config.has_stubs for config in configs):
            raise UserError(
                f"--override {name}: with --limit and --stub there are no gates; leave --override out"
            )
        if name not in there:
            gates = ", ".join(there) or "none"
            raise UserError(f"--override {name}: is not in `gates` of the config; those there are: {gates}")
    return frozenset(overrides)
