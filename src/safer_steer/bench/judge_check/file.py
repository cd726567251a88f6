"""What was found about a run's judge: `judge_check.json` in the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safer_steer.bench.rates import Rate
from safer_steer.bench.results import Agreement
from safer_steer.files.store import read_json, write_atomic
from safer_steer.metrics import AVERAGE, ProtocolName

FILE = "judge_check.json"
Corrected = Mapping[str, Mapping[ProtocolName, Mapping[str, Rate]]]
"""Rates corrected for the judge's errors by people's labels, by model, protocol and name."""


def read_check(run: Path) -> dict[str, Any]:
    """What was found so far; empty if nothing was. Raises `UserError` if the file is damaged."""
    return read_json(run / FILE, "judge-check")


def corrected_rates(parts: Mapping[str, Any]) -> Corrected:
    """The averages over suites; empty without labels."""
    by_model = parts.get("people", {}).get("corrected", {})
    return {
        model: {
            protocol: {name: Rate.model_validate(rate) for name, rate in suites[AVERAGE].items()}
            for protocol, suites in protocols.items()
        }
        for model, protocols in by_model.items()
    }


def agreement(check: Mapping[str, Any]) -> dict[str, Agreement]:
    """How far the judge agrees on harmlessness with people and with a second judge, by key of the file; those
    that were compared."""
    parts = {key: check[key] for key in ("people", "second") if key in check}
    return {key: Agreement.model_validate(part["harmlessness"]) for key, part in parts.items()}


def note(run: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Add parts to what was found before, in the run folder; returns all."""
    everything = {**read_check(run), **parts}
    write_atomic(run / FILE, json.dumps(everything, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return everything
