"""The command `cost`: the estimate as a table and as JSON. The table's numbers are rounded to their
precision."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from safer_steer.config import Config
from safer_steer.dialogue import Kind
from safer_steer.plan.assumptions import WAIT_S, assumptions
from safer_steer.plan.calls import Estimate, Line, Prices, estimate, from_run, price
from safer_steer.plan.counting import Count
from safer_steer.report.fitted_table import fitted

HEAD = (
    *("stage", "role", "calls", "images", "tokens in", "tokens out", "upload", "money", "time"),
    "stage's time",
)


def show(
    config: Config, console: Console, run: Path | None = None, as_json: bool = False, **options: Any
) -> None:
    """Print the estimate, corrected by a run; `options` are assumptions. Raises `UserError` as `estimate` and
    `from_run` do."""
    forecast = estimate(config, assumptions(config, **options))
    if run:
        forecast = from_run(forecast, run)
    prices = price(forecast)
    if as_json:
        text = json.dumps(as_dict(forecast, prices), indent=1)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(table(forecast, prices, console), crop=False)


def table(forecast: Estimate, prices: Prices, console: Console) -> Group:
    """One line per role and stage, the total, the model of each role, and the assumptions."""
    rows = []
    for stage, seconds in prices.seconds.items():
        of_stage = [line for line in prices.lines if line.stage == stage]
        for line in of_stage:
            costs = ("local", "local") if line.local else (money(line.money), duration(line.seconds or 0))
            begins = line is of_stage[0]
            ends = (stage, _time(of_stage, seconds)) if begins else ("", "")
            rows.append((ends[0], line.participant, *_cells(line.count), *costs, ends[1]))
    total = reduce(Count.plus, (line.count for line in prices.lines), Count())
    paid = money(prices.money if any(line.money is not None for line in prices.lines) else None)
    rows.append(("total", "", *_cells(total), paid, "", _time(prices.lines, sum(prices.seconds.values()))))
    grid = fitted(console, HEAD, rows, numbers=range(2, len(HEAD)), whole=range(2))
    models = Text(f"Models: {_models(prices)}.")
    return Group(grid, Text(), models, *map(Text, lines(forecast, prices)))


def _models(prices: Prices) -> str:
    """The models and their roles: `org/model (generator, red), student (target)`."""
    roles: dict[str, list[str]] = {}
    for line in prices.lines:
        names = roles.setdefault(line.model, [])
        if line.participant not in names:
            names.append(line.participant)
    return ", ".join(f"{model} ({', '.join(names)})" for model, names in roles.items())


def lines(forecast: Estimate, prices: Prices) -> list[str]:
    """The assumptions behind the numbers, one line each."""
    assumed, config = forecast.assumed, forecast.config
    kinds = ", ".join(f"{rounded(count)} {kind.value}" for kind, count in forecast.scripts.items())
    start = "scripts" if config.seeds.scripts else "pairs"
    texts = [
        f"Estimated from {forecast.pairs} {start} (scripts: {kinds}) and {forecast.dialogues} bench"
        " dialogues. Nothing was called.",
        f"Assumes {assumed.turn_tokens} tokens a user turn (--turn-tokens) and"
        f" {assumed.answer_of(config.student)} an answer (--answer-tokens), half of it thinking, and"
        f" {assumed.reason_tokens} a judge's reason (--reason-tokens)."
        " Hidden reasoning that a host bills is not included.",
        "Assumes 4 characters a token, and one token for 28 x 28 pixels of a picture (32 x 32 with"
        " Qwen3-VL). Hosted models bill pictures by their own rules.",
        f"Assumes that {assumed.overhead:.0%} of the calls are made again (--overhead), and that no script is"
        " dropped as refused or duplicate.",
    ]
    if Kind.RED_TEAM in config.seeds.kinds:
        at = assumed.success_turn
        place = f"at turn {at}" if at else "equally likely at every turn"
        texts.append(
            f"Assumes that {assumed.success:.0%} of the red-team scripts tried succeed (--success), {place}."
            " A script that fails is planned once more."
        )
    if "assemble" in forecast.stages:
        texts.append(
            f"Assumes that {assumed.keeps:.0%} of the scripts pass rule 1, and {assumed.keeps:.0%} of those"
            " rule 2 (--keeps)."
        )
    if any(not line.local for line in prices.lines):
        texts.append(
            f"Time: a reply takes {WAIT_S:g} s, plus its tokens at {assumed.tokens_per_second:g} a second"
            " (--tokens-per-second). Each role has its own concurrency and request rate. Training, and roles"
            " marked `local`, are not included."
        )
    if prices.unpriced:
        texts.append(
            f"The total leaves out {', '.join(prices.unpriced)}: no price is set (price_in, price_out)."
        )
    if stage := prices.stops_in(config.spending_limit):
        texts.append(f"spending_limit is {config.spending_limit:g}: the run would stop in {stage}.")
    return texts + forecast.notes


def as_dict(forecast: Estimate, prices: Prices) -> dict[str, Any]:
    """The same as plain numbers. Money and seconds are None where they are unknown."""
    return {
        "pairs": {"all": forecast.pairs},
        "dialogues": {"all": forecast.dialogues},
        "scripts": {kind.value: round(count) for kind, count in forecast.scripts.items()},
        "stages": [_stage(prices, stage) for stage in prices.seconds],
        "total": {
            "money": round(prices.money, 4),
            "seconds": round(sum(prices.seconds.values()), 1),
            "unpriced": prices.unpriced,
        },
        "assumptions": asdict(forecast.assumed),
        "stops_in": prices.stops_in(forecast.config.spending_limit),
        "notes": lines(forecast, prices),
    }


def _stage(prices: Prices, stage: str) -> dict[str, Any]:
    roles = [_row(line) for line in prices.lines if line.stage == stage]
    return {"stage": stage, "seconds": round(prices.seconds[stage], 1), "roles": roles}


def _row(line: Line) -> dict[str, Any]:
    counts = {name: round(value) for name, value in asdict(line.count).items()}
    costs = {
        "money": None if line.money is None else round(line.money, 4),
        "seconds": None if line.seconds is None else round(line.seconds, 1),
    }
    return {"role": line.participant, "model": line.model, "local": line.local, **counts, **costs}


def _cells(count: Count) -> tuple[str, ...]:
    numbers = (count.calls, count.images, count.tokens_in, count.tokens_out)
    return (*map(rounded, numbers), size(count.upload_bytes))


def _time(lines: list[Line], seconds: float) -> str:
    return "local" if all(line.local for line in lines) else duration(seconds)


def rounded(value: float) -> str:
    """To two significant digits, or three from 1,000 on: `740`, `12,300`, `1.23 M`."""
    if value < 1000:
        return f"{_digits(value):.0f}" if value >= 1 or value == 0 else "1"
    value = _digits(value, 3)
    return _in_units(value, {"G": 1e9, "M": 1e6}, 3) or f"{value:,.0f}"


def size(bytes: float) -> str:
    """Two significant digits in a suitable unit."""
    return _in_units(bytes, {"TB": 1e12, "GB": 1e9, "MB": 1e6}) or f"{_digits(bytes / 1e3):g} kB"


def duration(seconds: float) -> str:
    """Two significant digits in a suitable unit, of which there are at least two."""
    whole = _in_units(seconds / 2, {"d": 86400, "h": 3600, "min": 60}, times=2)
    return whole or f"{_digits(seconds):g} s"


def money(value: float | None) -> str:
    """Two significant digits, at least `< 0.01`; `-` for no price."""
    if value is None:
        return "-"
    if 0 < value < 0.01:
        return "< 0.01"
    value = _digits(value)
    return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"


def _in_units(value: float, units: dict[str, float], digits: int = 2, times: int = 1) -> str:
    """In the first unit that it reaches; "" if it reaches none."""
    reached = ((value * times / unit, name) for name, unit in units.items() if value >= unit)
    return next((f"{_digits(number, digits):g} {name}" for number, name in reached), "")


def _digits(value: float, digits: int = 2) -> float:
    return float(f"{value:.{digits}g}")
