"""The estimate as a table and as JSON. The table's numbers are rounded to their precision."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from safer_steer.dialogue import Kind
from safer_steer.plan.assumptions import WAIT_S
from safer_steer.plan.calls import Estimate
from safer_steer.plan.prices import Line, Prices
from safer_steer.report.fitted_table import fitted

HEAD = (
    "stage",
    "role",
    "calls",
    "images",
    "tokens in",
    "tokens out",
    "upload",
    "money",
    "time",
    "stage's time",
)


def table(found: Estimate, priced: Prices, console: Console) -> Group:
    """One line per role and stage, the total, the model of each role, and the assumptions."""
    rows = []
    for line in priced.lines:
        first = next(other for other in priced.lines if other.stage == line.stage) is line
        stage, whole = (line.stage, _stage_time(priced, line.stage)) if first else ("", "")
        rows.append((stage, line.participant, *_cells(line), whole))
    counts = [line.count for line in priced.lines]
    totals = [
        sum(count.calls for count in counts),
        sum(count.images for count in counts),
        sum(count.tokens_in for count in counts),
        sum(count.tokens_out for count in counts),
    ]
    upload = sum(count.upload_bytes for count in counts)
    paid = money(priced.money if any(line.money is not None for line in priced.lines) else None)
    rows.append(("total", "", *map(rounded, totals), size(upload), paid, "", _whole_time(priced)))
    grid = fitted(console, HEAD, rows, numbers=range(2, len(HEAD)), whole=range(2))
    return Group(
        grid, Text(), Text(f"Models: {_models(priced)}."), *(Text(line) for line in lines(found, priced))
    )


def _models(priced: Prices) -> str:
    """The models and their roles: `org/model (generator, red), student (target)`."""
    roles: dict[str, list[str]] = {}
    for line in priced.lines:
        names = roles.setdefault(line.model, [])
        if line.participant not in names:
            names.append(line.participant)
    return ", ".join(f"{model} ({', '.join(names)})" for model, names in roles.items())


def lines(found: Estimate, priced: Prices) -> list[str]:
    """The assumptions behind the numbers, one line each."""
    assumed, config = found.assumed, found.config
    exact = ", ".join(sorted(found.tokenized))
    known = f" (the tokenizer is used for {exact})" if exact else ""
    made = ", ".join(f"{rounded(count)} {kind.value}" for kind, count in found.scripts.items())
    start = "scripts" if config.seeds.scripts else "pairs"
    said = [
        f"Estimated from {found.pairs[1]} of {found.pairs[0]} {start} (scripts: {made}) and"
        f" {found.dialogues[1]} of {found.dialogues[0]} bench dialogues. Nothing was called.",
        f"Assumes {assumed.turn_tokens} tokens a user turn (--turn-tokens) and"
        f" {assumed.answer_of(config.student)} an answer (--answer-tokens), half of it thinking."
        " Hidden reasoning that a host bills is not included.",
        f"Assumes 4 characters a token{known}, and one token for 28 x 28 pixels of a picture (32 x 32 with"
        " Qwen3-VL). Hosted models bill pictures by their own rules.",
        f"Assumes that {assumed.overhead:.0%} of the calls are made again (--overhead), and that no script is"
        " dropped as refused or duplicate.",
    ]
    if Kind.RED_TEAM in config.seeds.kinds:
        said.append(
            f"Assumes that {assumed.success:.0%} of the red-team scripts tried succeed (--success), equally"
            " likely at every turn. A script that fails is planned once more."
        )
    if "assemble" in found.stages:
        said.append(
            f"Assumes that {assumed.keeps:.0%} of the scripts pass rule 1, and {assumed.keeps:.0%} of those"
            " rule 2 (--keeps)."
        )
    if any(not line.local for line in priced.lines):
        said.append(
            f"Time: a reply takes {WAIT_S:g} s, plus its tokens at {assumed.tokens_per_second:g} a second"
            " (--tokens-per-second). Each role has its own concurrency and request rate. Training, and roles"
            " marked `local`, are not included."
        )
    if priced.unpriced:
        said.append(
            f"The total leaves out {', '.join(priced.unpriced)}: no price is set (price_in, price_out)."
        )
    if stage := priced.stops_in(config.spending_limit):
        said.append(f"spending_limit is {config.spending_limit:g}: the run would stop in {stage}.")
    return said + found.notes


def as_dict(found: Estimate, priced: Prices) -> dict[str, Any]:
    """The same as plain numbers. Money and seconds are None where they are unknown."""
    return {
        "pairs": dict(zip(("all", "sampled"), found.pairs, strict=True)),
        "dialogues": dict(zip(("all", "sampled"), found.dialogues, strict=True)),
        "scripts": {kind.value: round(count) for kind, count in found.scripts.items()},
        "stages": [_stage(priced, stage) for stage in priced.seconds],
        "total": {
            "money": round(priced.money, 4),
            "seconds": round(sum(priced.seconds.values()), 1),
            "unpriced": priced.unpriced,
        },
        "assumptions": asdict(found.assumed),
        "stops_in": priced.stops_in(found.config.spending_limit),
        "notes": lines(found, priced),
    }


def _stage(priced: Prices, stage: str) -> dict[str, Any]:
    roles = [_row(line) for line in priced.lines if line.stage == stage]
    return {"stage": stage, "seconds": round(priced.seconds[stage], 1), "roles": roles}


def _row(line: Line) -> dict[str, Any]:
    counts = {name: round(value) for name, value in asdict(line.count).items()}
    costs = {
        "money": None if line.money is None else round(line.money, 4),
        "seconds": None if line.seconds is None else round(line.seconds, 1),
    }
    return {"role": line.participant, "model": line.model, "local": line.local, **counts, **costs}


def _cells(line: Line) -> tuple[str, ...]:
    count = line.count
    numbers = (
        rounded(count.calls),
        rounded(count.images),
        rounded(count.tokens_in),
        rounded(count.tokens_out),
        size(count.upload_bytes),
    )
    return (
        (*numbers, "local", "local")
        if line.local
        else (*numbers, money(line.money), duration(line.seconds or 0.0))
    )


def _whole_time(priced: Prices) -> str:
    return "local" if all(line.local for line in priced.lines) else duration(sum(priced.seconds.values()))


def _stage_time(priced: Prices, stage: str) -> str:
    return (
        "local"
        if all(line.local for line in priced.lines if line.stage == stage)
        else duration(priced.seconds[stage])
    )


def rounded(value: float) -> str:
    """To two significant digits, or three from 1,000 on: `740`, `12,300`, `1.23 M`."""
    if value < 1000:
        return f"{_two_digits(value):.0f}" if value >= 1 or value == 0 else "1"
    value = float(f"{value:.3g}")
    for unit, name in ((1e9, "G"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:,.0f}"


def size(bytes: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if bytes >= unit:
            return f"{_two_digits(bytes / unit):g} {name}"
    return f"{_two_digits(bytes / 1e3):g} kB"


def money(value: float | None) -> str:
    """Two significant digits, at least `< 0.01`; `-` for no price."""
    if value is None:
        return "-"
    if 0 < value < 0.01:
        return "< 0.01"
    value = _two_digits(value)
    return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Two significant digits in a suitable unit."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{_two_digits(seconds / unit):g} {name}"
    return f"{_two_digits(seconds):g} s"


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
