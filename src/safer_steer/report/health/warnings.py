"""Warnings after a stage: one line per quantity that is not as usual."""

from __future__ import annotations

from pathlib import Path

from safer_steer.report.health.quantities import QUANTITIES, Evidence


def warnings(run: Path, stage: str) -> list[str]:
    """Problems of a stage's attackers, judges and groups, one line each; empty if there are none."""
    evidence, lines = Evidence(run, stage), []
    for quantity in QUANTITIES.values():
        if quantity.usual and stage in quantity.stages:
            for reading in quantity.read(evidence):
                if quantity.usual.left(reading.value):
                    lines.append(f"{reading.words}; {quantity.advice_on(reading)}")
    return lines
