"""The page's plots, as small inline SVG. Colours come from the page's style sheet, for light and dark mode.

Lines are labelled directly. Their colours are distinguishable for colour-blind readers, and they also differ
in dash. The same numbers give the same bytes. Matplotlib is imported when the first plot is drawn.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import fmean
from typing import TYPE_CHECKING, Any

from safer_steer.report.table import Summary, at, is_twin, model_label, model_names, number, rate, suites

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SVG, XLINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
INK, FAINT = "#010101", "#020202"
SERIES = ["#030303", "#040404", "#050505", "#060606", "#070707", "#080808"]
"""Placeholder colours. Each is replaced by a style sheet variable, `--series-0` and so on."""
VARIABLES = {INK: "var(--ink)", FAINT: "var(--rule)"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)
}
DASHES = [(0, (1, 1.6)), (0, (5, 2)), "solid", (0, (6, 2, 1, 2))]


@dataclass(frozen=True)
class Plot:
    """One plot: title, caption and SVG element."""

    title: str
    caption: str
    svg: str
    wide: bool = False


def survival_plots(summary: Summary) -> list[Plot]:
    """Kaplan-Meier curves with bands: all attack suites pooled, then each suite. Empty if nothing was
    measured."""
    models = model_names(summary)
    pooled = {model: at(summary, "models", model, "multi_turn", "average", "survival") for model in models}
    names = {
        name: None
        for model in models
        for name, entry in suites(summary, model, "multi_turn").items()
        if not is_twin(entry)
    }
    plots = [_survival("All attack suites", pooled, wide=True)]
    if len(names) > 1 or plots[0] is None:
        plots += [
            _survival(
                name,
                {model: at(summary, "models", model, "multi_turn", name, "survival") for model in models},
            )
            for name in names
        ]
    return [plot for plot in plots if plot is not None]


def over_refusal_plot(summary: Summary) -> Plot | None:
    """Share of safe requests refused per turn, one line per model."""
    lines, models = [], model_names(summary)
    for index, model in enumerate(models):
        aside = 0.08 * (index - (len(models) - 1) / 2)  # keeps the models' bars from overlapping
        rows = at(summary, "models", model, "multi_turn", "average", "over_refusal", "by_turn")
        line = _Line(model_label(model), [], [], index, [], [])
        for row in rows or []:
            turn, refused = number(at(row, "turn")), rate(row)
            if turn is not None and refused is not None:
                line.add(turn + aside, refused.value, refused.low, refused.high)
        if line.x:
            lines.append(line)
    if not lines:
        return None
    highest = max(max(line.high) for line in lines)
    svg = _draw(lines, "turn", "refused, %", (0, min(102, max(20, 1.2 * highest))), marker="o")
    caption = "Share of safe requests refused at each turn, those of attack dialogues included, with 95 % intervals."
    return Plot("Over-refusal by turn", caption, svg)


def training_plots(steps: Sequence[dict[str, Any]]) -> list[Plot]:
    """Plots of the RL run: return, leak rate and KL by step, and scores by turn index early and late in
    training."""
    plots = []
    for key, title, caption in (
        ("return", "Return", "Mean return of a step's trajectories."),
        ("leak_rate", "Leak rate", "Share of a step's trajectories with a leak."),
        ("kl", "KL to the SFT model", "Mean per-token KL divergence, in nats."),
    ):
        points = [(float(index), number(row.get(key))) for index, row in _numbered(steps)]
        known = [(step, value) for step, value in points if value is not None]
        if known:
            line = _Line("", [step for step, _ in known], [value for _, value in known], 2)
            plots.append(
                Plot(title, caption, _draw([line], "step", "", (0, None) if key != "return" else None))
            )
    for key in ("safety", "usefulness", "faithfulness"):
        lines = _early_and_late(steps, f"{key}_by_turn")
        if lines:
            plots.append(
                Plot(
                    f"{key.capitalize()} by turn",
                    "Mean tutor score (1-10) at each turn index.",
                    _draw(lines, "turn", "score", (1, 10.2), marker="o"),
                )
            )
    return plots


@dataclass(frozen=True)
class _Line:
    name: str
    x: list[float]
    y: list[float]
    series: int
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, x: float, y: float, low: float | None, high: float | None) -> None:
        """Add a point with its band. A bound of None is replaced by the point itself."""
        self.x.append(x)
        self.y.append(y)
        self.low.append(y if low is None else low)
        self.high.append(y if high is None else high)


def _numbered(steps: Sequence[dict[str, Any]]) -> list[tuple[float, dict[str, Any]]]:
    """Each row with its step. A row without a step uses its position."""
    return [
        (stated if (stated := number(row.get("step"))) is not None else float(place), row)
        for place, row in enumerate(steps)
    ]


def _survival(title: str, curves: dict[str, Any], wide: bool = False) -> Plot | None:
    lines = []
    for index, (model, curve) in enumerate(curves.items()):
        turns, shares, lows, highs = (
            [number(value) for value in at(curve, key) or []] for key in ("turn", "S", "low", "high")
        )
        line = _Line(model_label(model), [], [], index, [], [])
        for turn, share, low, high in zip(turns, shares, lows, highs, strict=False):
            if turn is not None and share is not None:
                percent = [None if bound is None else 100 * bound for bound in (low, high)]
                line.add(turn, 100 * share, *percent)
        if line.x:
            lines.append(line)
    if not lines:
        return None
    caption = (
        "Share of dialogues without a turn of harmlessness below 2, by turn (Kaplan-Meier, 95 % band)."
        if wide
        else ""
    )
    failures = {
        model_label(model): (number(at(curve, "failures")), number(at(curve, "n")))
        for model, curve in curves.items()
    }
    stated = [
        f"{model} {failed:g} of {n:g}" for model, (failed, n) in failures.items() if failed is not None and n
    ]
    if stated:
        caption = f"{caption} Failed: {', '.join(stated)}.".strip()
    return Plot(
        title,
        caption,
        _draw(lines, "turn", "still safe, %", (0, 102), step=True, wide=wide, x_limit=10),
        wide,
    )


def _early_and_late(steps: Sequence[dict[str, Any]], key: str) -> list[_Line]:
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
                _Line(
                    name,
                    list(map(float, sorted(columns))),
                    [fmean(columns[turn]) for turn in sorted(columns)],
                    index,
                )
            )
    return lines


def _draw(
    lines: list[_Line],
    x_label: str,
    y_label: str,
    y_limits: tuple[float | None, float | None] | None,
    *,
    step: bool = False,
    wide: bool = False,
    marker: str | None = None,
    x_limit: float | None = None,
) -> str:
    """Draw one panel: 460 x 290 units if `wide`, else 340 x 240. Text is 11-12 units, readable unscaled."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    size = 12 if wide else 11
    settings: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "safer-steer", "text.parse_math": False, "font.size": size, "font.family": "DejaVu Sans",
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": FAINT,
    }  # fmt: skip
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        width, height = (460, 290) if wide else (340, 240)
        room = 104 if wide else 92 if any(line.name for line in lines) else 14
        figure = Figure(figsize=(width / 72, height / 72))
        axes = figure.add_axes((46 / width, 40 / height, 1 - (46 + room) / width, 1 - 56 / height))
        for line in lines:
            colour, dash = SERIES[line.series % len(SERIES)], DASHES[line.series % len(DASHES)]
            style = "steps-post" if step else "default"
            if line.low and marker:
                axes.vlines(line.x, line.low, line.high, color=colour, linewidth=1.1)
            elif line.low:
                axes.fill_between(
                    line.x,
                    line.low,
                    line.high,
                    step="post" if step else None,
                    color=colour,
                    alpha=0.13,
                    linewidth=0,
                )
            axes.plot(
                line.x,
                line.y,
                color=colour,
                linestyle=dash if line.name else "solid",
                linewidth=1.9,
                drawstyle=style,
                marker=marker,
                markersize=3.4,
            )
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=3, color=FAINT)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if y_label:
            axes.set_title(y_label, loc="left", fontsize=size)
        if y_limits:
            axes.set_ylim(*y_limits)
        if x_limit:
            axes.set_xlim(0, max(x_limit, *(line.x[-1] for line in lines)))
        _name_lines(axes, lines, size)
        buffer = io.BytesIO()
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return _inline(buffer.getvalue())


def _name_lines(axes: Axes, lines: list[_Line], size: int) -> None:
    """Label each line at the right edge. Labels are moved vertically so that none overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * 1.25 * size / (axes.get_position().height * axes.figure.get_figheight() * 72)  # type: ignore[union-attr]
    named = sorted((line for line in lines if line.name), key=lambda line: (line.y[-1], -line.series))
    heights: list[float] = []
    for line in named:
        heights.append(max(line.y[-1], heights[-1] + gap if heights else low))
    for place in reversed(range(len(heights))):
        ceiling = heights[place + 1] - gap if place + 1 < len(heights) else high
        heights[place] = min(heights[place], ceiling)
    right = axes.get_xlim()[1]
    for line, height in zip(named, heights, strict=True):
        colour = SERIES[line.series % len(SERIES)]
        axes.annotate(
            _short(line.name),
            (right, height),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            annotation_clip=False,
        )


def _short(name: str, length: int = 16) -> str:
    """Shorten a name to fit beside its line, and replace characters that XML does not allow."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in name)
    return clean if len(clean) <= length else clean[: length - 1] + "…"


def _inline(document: bytes) -> str:
    """Reduce a document to its `<svg>` element, without style attributes, style sheets, fonts and unused ids.

    The page's content security policy forbids inline `style=`, so styles become presentation attributes.
    """
    ET.register_namespace("", SVG)
    root = ET.fromstring(document)
    # Two plots can use the same id for a marker or clip path.
    own = sha256(document).hexdigest()[:6]
    used = set(re.findall(rb'url\(#([^)]+)\)|href="#([^"]+)"', document))
    names = {(clip or link).decode() for clip, link in used}
    for element in root.iter():
        for child in [child for child in element if child.tag in (f"{{{SVG}}}style", f"{{{SVG}}}metadata")]:
            element.remove(child)
        id, link = element.attrib.pop("id", None), element.attrib.pop(XLINK, None)
        if id in names:
            element.set("id", f"{own}-{id}")
        if link:
            element.set("href", f"#{own}-{link[1:]}")
        if clip := element.get("clip-path"):
            element.set("clip-path", clip.replace("#", f"#{own}-"))
        for declaration in filter(
            None, (part.strip() for part in element.attrib.pop("style", "").split(";"))
        ):
            key, _, value = (piece.strip() for piece in declaration.partition(":"))
            if key == "font":
                element.set("font-size", value.split()[0])
            elif key != "font-family":
                element.set(key, VARIABLES.get(value, value))
        for key in ("fill", "stroke"):
            if element.get(key) in VARIABLES:
                element.set(key, VARIABLES[element.attrib[key]])
    root.set("stroke-linejoin", "round")
    root.set("aria-hidden", "true")
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    return re.sub(r"\s*\n\s*", "\n", ET.tostring(root, encoding="unicode"))
