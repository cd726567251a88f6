"""Estimates the cost of a run: the pipeline's own code on a sample of the data, with a stub transport and no
network calls."""

from __future__ import annotations

import json

from rich.console import Console

from safer_steer.config import Config
from safer_steer.plan.assumptions import Assumptions
from safer_steer.plan.calls import Estimate, estimate
from safer_steer.plan.calls_table import as_dict, table
from safer_steer.plan.prices import price

__all__ = ["Assumptions", "Estimate", "as_dict", "estimate", "price", "show", "table"]


def show(config: Config, assumed: Assumptions, console: Console, as_json: bool = False) -> None:
    """Print the estimate, as a table or as JSON. Raises `UserError` as `estimate` does."""
    found = estimate(config, assumed)
    priced = price(found)
    if as_json:
        console.print(
            json.dumps(as_dict(found, priced), indent=1), markup=False, highlight=False, soft_wrap=True
        )
    else:
        console.print(table(found, priced, console), crop=False)
