"""A program that asks an endpoint through a `Run`, as stages do: the judge, question by question, with
everything logged. Tests kill it."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

from display import Quiet
from safer_steer.config import Config
from safer_steer.errors import BoundaryError, SpendingLimit
from safer_steer.prompts.judge import JUDGE, JudgeInput
from safer_steer.run.folder import Run

CONCURRENCY = 4
PRICE = 1.0
"""Of one reply, 10 prompt and 5 completion tokens of which the test server counts."""


def config(url: str, limit: float | None = None, **judge: Any) -> Config:
    price = PRICE / 15 * 1e6
    role = {
        "model": "m",
        "base_url": url,
        "concurrency": CONCURRENCY,
        "price_in": price,
        "price_out": price,
        "retries": 1,
        "reasks": 1,
    } | judge
    return Config.model_validate({"spending_limit": limit, "roles": {"judge": role}})


def ask_all(settings: Config, folder: Path, questions: int) -> list[str]:
    """Ask every question side by side, as stage `report`; returns what came of them."""
    outcomes: list[str] = []

    async def ask(run: Run, number: int) -> None:
        try:
            verdict = await run.ask("judge").ask(
                JUDGE, JudgeInput(history=[], question=f"question {number}.", answer="no")
            )
            outcomes.append(verdict.reason)
        except BoundaryError as error:
            outcomes.append(f"{error.boundary}: {error}")

    async def everything(run: Run) -> None:
        tasks = [asyncio.create_task(ask(run, number)) for number in range(questions)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    with Run(settings, folder, Quiet()) as run:
        run.once("report", lambda progress: run.wait(everything(run)))
    return outcomes


if __name__ == "__main__":
    url, folder, limit, questions, key_in = sys.argv[1:]
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        print(ask_all(config(url, float(limit), api_key_env=key_in or None), Path(folder), int(questions)))
    except SpendingLimit as error:
        sys.exit(f"SpendingLimit: {error}")
