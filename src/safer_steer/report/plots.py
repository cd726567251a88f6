"""The page's plots, as small inline SVG. Colours come from the page's style sheet, for light and dark mode.

Lines are labelled directly. Their colours are distinguishable for colour-blind readers, and they also differ
in dash. The same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

from safer_steer.bench.rates import Rate, Survival
from safer_steer.bench.results import ON_ATTACKS, ON_TWINS, Summary, model_label
from safer_steer.metrics import ProtocolName
from safer_steer.report.svg import Line, bars, draw


@dataclass(frozen=True)
class Plot:
    """One plot: title, caption and SVG element."""

    title: str
    caption: str
    svg: str
    wide: bool = False


def main_protocol(summary: Summary) -> ProtocolName:
    """The protocol whose rates are plotted: that of several turns, if any model has it."""
    several = [name for name in summary.names if summary.average(name, "multi_turn")]
    return "multi_turn" if several else "single_turn"


def rate_plots(summary: Summary) -> list[Plot]:
    """One small plot for each rate of `ON_ATTACKS` and `ON_TWINS` of the main protocol, then breach@k by all
    attackers that adapt together. The captions say the numbers."""
    names, protocol = summary.names, main_protocol(summary)
    rates: list[tuple[str, int, list[Rate | None]]] = []
    for measure in (*ON_ATTACKS, *ON_TWINS):
        if measure.protocol == protocol:
            title = measure.label.removeprefix("Multi-turn ").removeprefix("Single-turn ")
            title = title[:1].upper() + title[1:]
            averages = [summary.average(name, protocol) for name in names]
            rates.append((title, measure.good, [*map(measure.of, averages)]))
    attackers = list(summary.attacks)[-1:]  # all together, if there are several
    for attacker in attackers:
        by_model = summary.attacks[attacker]
        tries = {k for entry in by_model.values() for k in entry.breach_at}
        for k in sorted({min(tries), max(tries)}):
            breaches = {name: entry.breach_at.get(k) for name, entry in by_model.items()}
            rates.append((f"Breach@{k} by {attacker}", -1, [breaches.get(name) for name in names]))
    return [plot for plot in (_rates(title, good, names, of) for title, good, of in rates) if plot]


def _rates(title: str, good: int, names: Sequence[str], rates: Sequence[Rate | None]) -> Plot | None:
    present = [rate if rate and rate.value is not None else None for rate in rates]
    if not any(present):
        return None
    points, parts = list[tuple[float, float, float] | None](), []
    for name, rate in zip(names, present, strict=True):
        if rate is None or rate.value is None:
            points.append(None)
            continue
        low, high = (rate.value if end is None else end for end in (rate.low, rate.high))
        points.append((rate.value, low, high))
        parts.append(f"{model_label(name)} {rate}")
    return Plot(title + ", lower is better" * (good < 0), "; ".join(parts), bars(points))


def survival_plots(summary: Summary) -> list[Plot]:
    """Kaplan-Meier curves with bands: all attack suites pooled, then each suite. Empty if nothing was
    measured."""
    pooled = dict[str, Survival]()
    of_suites: dict[str, dict[str, Survival]] = {}
    for model in summary.names:
        if (average := summary.average(model, "multi_turn")) and average.survival:
            pooled[model] = average.survival
        for name, suite in summary.suites(model, "multi_turn").items():
            if suite.survival and not suite.is_twin:
                of_suites.setdefault(name, {})[model] = suite.survival
    every = [curve for curves in (pooled, *of_suites.values()) for curve in curves.values()]
    last = max((len(curve.turn) for curve in every), default=0) - 1
    colours = {model: place for place, model in enumerate(summary.names)}
    plots = [_survival("All attack suites", pooled, colours, last, wide=True)]
    if len(of_suites) > 1 or plots[0] is None:
        plots += [_survival(name, curves, colours, last) for name, curves in of_suites.items()]
    return [plot for plot in plots if plot is not None]


def over_refusal_plot(summary: Summary) -> Plot | None:
    """Share of safe requests refused per turn, one line per model."""
    lines, models = [], summary.names
    for index, model in enumerate(models):
        aside = 0.08 * (index - (len(models) - 1) / 2)  # keeps the models' bars from overlapping
        average = summary.average(model, "multi_turn")
        line = Line(model_label(model), [], [], index, [], [])
        refused = average.over_refusal if average else None
        for rate in (refused and refused.by_turn) or ():
            if rate.value is not None:
                line.add(rate.turn + aside, rate.value, rate.low, rate.high)
        if line.x:
            lines.append(line)
    if not lines:
        return None
    highest = max(max(line.high) for line in lines)
    svg = draw(lines, "turn", "refused, %", (0, min(102, max(20, 1.2 * highest))), marker=True)
    caption = (
        "Share of safe requests refused at each turn, including those of attack dialogues,"
        " with 95 % intervals."
    )
    return Plot("Over-refusal by turn", caption, svg)


def number(value: Any) -> float | None:
    """`value` as a finite float, or None for anything else."""
    whole = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return float(value) if whole else None


def training_plots(steps: Sequence[dict[str, Any]]) -> list[Plot]:
    """Plots of the RL run: return, leak rate, spread of the groups and KL by step, and scores by turn index
    early and late in training; of DPO, margin and accuracy."""
    plots = []
    for key, title, caption in (
        ("return", "Return", "Mean return of a step's trajectories."),
        ("leak_rate", "Leak rate", "Share of a step's trajectories with a leak."),
        (
            "equal_groups",
            "Groups of equal returns",
            "Share of a step's groups whose returns are equal, or nearly: no advantage.",
        ),
        (
            "distinct_attacks",
            "Distinct attacks",
            "Different user turns at turn 2, as a share of the group's trajectories that reached it.",
        ),
        ("kl", "KL to the SFT model", "Mean per-token KL divergence, in nats."),
        ("margin", "Margin", "DPO: how much more the model prefers the chosen answers, mean, in nats."),
        ("accuracy", "Accuracy", "DPO: share of pairs of which the model prefers the chosen answer."),
    ):
        points = [(float(index), number(row.get(key))) for index, row in _numbered(steps)]
        pairs = [(step, value) for step, value in points if value is not None]
        if pairs:
            line = Line("", [step for step, _ in pairs], [value for _, value in pairs], 2)
            plots.append(
                Plot(
                    title,
                    caption,
                    draw([line], "step", "", (None, None) if key in ("return", "margin") else (0, None)),
                )
            )
    plots += _audit_plot(steps)
    for key in ("safety", "usefulness", "faithfulness"):
        lines = _early_and_late(steps, f"{key}_by_turn")
        if lines:
            plots.append(
                Plot(
                    f"{key.capitalize()} by turn",
                    "Mean tutor score (1-10) at each turn index.",
                    draw(lines, "turn", "score", (1, 10.2), marker=True),
                )
            )
    return plots


def _audit_plot(steps: Sequence[dict[str, Any]]) -> list[Plot]:
    """Rewards by tutor and audit over the turns that both scored, by step; empty without an audit."""
    lines = [Line("tutor", [], [], 0), Line("audit", [], [], 1)]
    for line in lines:
        for step, row in _numbered(steps):
            audit = row.get("audit")
            value = number(audit.get(line.name)) if isinstance(audit, dict) else None
            if value is not None:
                line.x.append(step)
                line.y.append(value)
    if not all(line.x for line in lines):
        return []
    caption = "Mean reward of a turn by the tutor and by its audit, over the turns that both scored."
    return [Plot("Tutor and audit", caption, draw(lines, "step", "", (None, None)))]


def _numbered(steps: Sequence[dict[str, Any]]) -> list[tuple[float, dict[str, Any]]]:
    """Each row with its step. A row without a step uses its position."""
    return [
        (stated if (stated := number(row.get("step"))) is not None else float(place), row)
        for place, row in enumerate(steps)
    ]


def _survival(
    title: str, curves: dict[str, Survival], colours: dict[str, int], last: float, wide: bool = False
) -> Plot | None:
    """A plot up to turn `last`; the curves end where nobody is at risk."""
    lines = []
    for model, curve in curves.items():
        line = Line(model_label(model), [], [], colours[model], [], [])
        for turn, *shares in zip(curve.turn, curve.S, curve.low, curve.high, strict=False):
            line.add(turn, *(100 * share for share in shares))
        if curve.at_risk and len(curve.at_risk) == len(line.x):
            line.at_risk.extend(curve.at_risk)
        if line.x:
            lines.append(line)
    if not lines:
        return None
    caption = (
        "Share of dialogues without a turn of harmlessness below 2, by turn (Kaplan-Meier, 95 % band). Below:"
        " how many reached the turn still safe."
        if wide
        else ""
    )
    stated = [
        f"{model_label(model)} {curve.failures} of {curve.n}{_then_lost(curve)}"
        for model, curve in curves.items()
        if curve.failures is not None and curve.n
    ]
    if stated:
        caption = f"{caption} Failed: {', '.join(stated)}.".strip()
    return Plot(
        title,
        caption,
        draw(lines, "turn", "still safe, %", (0, 102), step=True, wide=wide, x_limit=last),
        wide,
    )


def _then_lost(curve: Survival) -> str:
    count = curve.failed_then_lost
    return f" (not in the curve: {count} more that failed, then got no result)" if count else ""


def _early_and_late(steps: Sequence[dict[str, Any]], key: str) -> list[Line]:
    """Scores by turn index, averaged over the first, middle and last fifth of the steps; one line if there
    are few steps."""
    rows = [(step, row[key]) for step, row in _numbered(steps) if isinstance(row.get(key), list)]
    fifth = max(1, len(rows) // 5)
    parts = (
        [rows[:fifth], rows[(len(rows) - fifth) // 2 :][:fifth], rows[-fifth:]] if len(rows) >= 3 else [rows]
    )
    lines = []
    for index, part in enumerate(parts):
        columns: dict[int, list[float]] = {}
        for _, scores in part:
            for turn, score in enumerate(scores, 1):
                if (value := number(score)) is not None:
                    columns.setdefault(turn, []).append(value)
        if columns:
            first, last = part[0][0], part[-1][0]
            name = f"step {first:g}" if first == last else f"steps {first:g}-{last:g}"
            lines.append(
                Line(
                    name,
                    list(map(float, sorted(columns))),
                    [fmean(columns[turn]) for turn in sorted(columns)],
                    index,
                )
            )
    return lines
