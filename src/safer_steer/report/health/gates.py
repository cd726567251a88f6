"""The gates of a run: what the quantities of its config's `gates` are, and whether they are in their
bands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from safer_steer.bench.rates import NONE
from safer_steer.config import Config
from safer_steer.config.gates import Band, GateName
from safer_steer.files.manifest import Manifest
from safer_steer.report.health.quantities import QUANTITIES, Evidence, Quantity, Reading
from safer_steer.report.health.tables import Table

Gates = Mapping[GateName, Band]
_GATES: TypeAdapter[dict[GateName, Band]] = TypeAdapter(dict[GateName, Band])


class Looked(NamedTuple):
    """A gate after a stage."""

    stage: str
    gate: GateName
    band: Band
    quantity: Quantity
    reading: Reading | None
    """None where it is not measured, or on too little."""

    @property
    def left(self) -> str:
        """How it is out of its band, in words; "" if it is not."""
        return self.band.left(self.reading.value) if self.reading else ""

    @property
    def words(self) -> str:
        """One line: what, by how much, and what people do then."""
        assert self.reading
        means = self.band.means or self.quantity.advice_on(self.reading)
        return f"{self.gate} is {self.left} ({self.band.basis}): {self.reading.words}; {means}"


def look(run: Path, gates: Gates, stage: str) -> Iterator[Looked]:
    """The gates of a stage, as its rows are now. Raises `UserError` if one is damaged."""
    evidence = Evidence(run, stage)
    for gate, band in gates.items():
        quantity = QUANTITIES[gate]
        if stage in quantity.stages:
            readings: list[Reading | None] = [*quantity.read(evidence)]
            for reading in readings or [None]:
                yield Looked(stage, gate, band, quantity, reading)


def kept(run: Path, gates: Gates, stage: str) -> bool:
    """Whether a finished stage is in its bands, or an override is noted where it is not."""
    manifest = Manifest(run)
    return all(manifest.overridden(stage, one.gate, None) for one in look(run, gates, stage) if one.left)


def not_measurable(config: Config, stage: str) -> str:
    """Why a gate of a stage would never have a value under this config, in one line, or ""."""
    for gate in config.gates:
        quantity = QUANTITIES[gate]
        if stage in quantity.stages and (need := quantity.lacks(config)):
            return f"gates.{gate}: needs {need}; leave it out"
    return ""


def gates_table(run: Path, config: Mapping[str, Any]) -> Table | None:
    """A row for each gate of a run's config and what it measured; None without gates. `config` is as YAML has
    it, also of another version."""
    try:
        gates = _GATES.validate_python(config.get("gates") or {})
    except ValidationError:
        return None
    if not gates:
        return None
    manifest, rows = Manifest(run), []
    overridden = {(one["stage"], one["gate"]) for one in manifest.overrides}
    for stage in dict.fromkeys(stage for gate in gates for stage in QUANTITIES[gate].stages):
        for one in look(run, gates, stage):
            verdict = "in its band"
            if one.reading is None:
                verdict = "not measured" if stage in manifest.stages else "not yet"
            elif one.left:
                verdict = "overridden" if (stage, one.gate) in overridden else "out of its band"
            value = f"{one.reading.value:.3g}" if one.reading else NONE
            words = one.reading.words if one.reading else one.quantity.what
            rows.append([one.gate, stage, value, str(one.band), one.band.basis, verdict, words])
    return Table(
        "Gates",
        "Quantities that the config bounds (`gates`). One that leaves its band stops the run.",
        ["gate", "after", "value", "band", "from", "verdict", "measured"],
        rows,
    )
