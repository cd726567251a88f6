"""Draws one panel of lines as an SVG element, in the colours of the page's style sheet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, isfinite, log10
from xml.sax.saxutils import escape

INK, FAINT = "var(--ink)", "var(--rule)"
SERIES = 6
"""Colours of lines: `--series-0` to `--series-5`."""
DASHES = ("1.9 3", "9.5 3.8", "", "11.4 3.8 1.9 3.8")
LEFT, TOP, BOTTOM = 46, 20, 40
"""Room for the axes' labels, in units."""
NAME, LONG_NAME = 16, 26
"""Characters of a line's name that there is always room for, and at most."""
ROW = 1.25
"""Height of a line of text, in its size."""
MARGIN = 0.05
"""Share of the data's range that is left free at both ends of an axis without limits."""
Limits = tuple[float | None, float | None]
SHAPES = (
    "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0Z",
    "M-3.2-3.2h6.4v6.4h-6.4Z",
    "M0-4.6L4.3 3.1H-4.3Z",
    "M0-4.6L4.6 0L0 4.6L-4.6 0Z",
    "M0 4.6L4.3-3.1H-4.3Z",
    "M-4.2-1.4h2.8v-2.8h2.8v2.8h2.8v2.8h-2.8v2.8h-2.8v-2.8h-2.8Z",
)
"""Marks around 0: circle, square, triangle, diamond, triangle, cross."""
FEW, SLOT = 4, 8
"""The most rates whose values are written below them, and the least width of a rate, in units."""


@dataclass(frozen=True)
class Line:
    """A line with its name, its number among the colours, and its points; `low` and `high` are its band, or
    empty; `at_risk` are numbers at the points, in a row below the plot, or empty."""

    name: str
    x: list[float]
    y: list[float]
    series: int
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    at_risk: list[float] = field(default_factory=list)

    def add(self, x: float, y: float, low: float | None, high: float | None) -> None:
        """Add a point with its band. A bound of None is replaced by the point itself."""
        self.x.append(x)
        self.y.append(y)
        self.low.append(y if low is None else low)
        self.high.append(y if high is None else high)

    @property
    def colour(self) -> str:
        return f"var(--series-{self.series % SERIES})"


class _Axis:
    """From values to places in the drawing, `begin` to `end` in units."""

    def __init__(self, values: Sequence[float], limits: Limits, begin: float, end: float) -> None:
        low, high = min(values), max(values)
        free = MARGIN * (high - low) or MARGIN * abs(high) or 0.5
        self.low = low - free if limits[0] is None else limits[0]
        self.high = high + free if limits[1] is None else limits[1]
        if self.high <= self.low:
            self.high = self.low + 1
        self.begin, self.end, self.scale = begin, end, (end - begin) / (self.high - self.low)

    def __call__(self, value: float) -> float:
        return self.begin + (min(max(value, self.low), self.high) - self.low) * self.scale

    def ticks(self, most: int, whole: bool = False) -> Iterator[float]:
        """About `most` round values, or whole numbers only."""
        rough = (self.high - self.low) / most
        power = 10.0 ** floor(log10(rough))
        step = next(power * size for size in (1, 2, 2.5, 5, 10) if power * size >= 0.95 * rough)
        if whole:
            step = max(1.0, float(ceil(step)))
        for place in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1):
            yield place * step


def draw(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    y_limits: Limits = (None, None),
    *,
    step: bool = False,
    wide: bool = False,
    marker: bool = False,
    x_limit: float | None = None,
) -> str:
    """An `<svg>` element of 460 x 290 units if `wide`, else 340 x 240; wider for long names, and higher for
    numbers at risk. Text is 11-12 units high.

    Args:
        lines: with at least one point each; a point that is not finite is left out.
        step: a value holds until the next point; the band of the last one is a bar.
        marker: points are marked, and a band is drawn as a bar at each point.
        x_limit: the x axis begins at 0 and reaches at least here.
    """
    width, height, size = (460, 290, 12) if wide else (340, 240, 11)
    room = 92 if any(line.name for line in lines) else 14
    if wide:
        room = 104
    longest = max(len(line.name) for line in lines)
    if longest > NAME:  # as on a page of several runs
        more = round(0.56 * size * (min(longest, LONG_NAME) - NAME))
        width, room = width + more, room + more
    lines = [_finite(line) for line in lines]
    across = [x for line in lines for x in line.x]
    x_limits = (None, None) if x_limit is None else (0.0, max(x_limit, *across))
    x = _Axis(across, x_limits, LEFT, width - room)
    upright = [y for line in lines for y in (*line.y, *line.low, *line.high)]
    y = _Axis(upright, y_limits, height - BOTTOM, TOP)
    parts = [*_axes(x, y, width - room, height - BOTTOM, size)]
    parts.append(_text(LEFT, TOP - 6, y_label, size, "start"))
    parts.append(_text((LEFT + width - room) / 2, height - 6, x_label, size, "middle"))
    for line in lines:
        parts += _bars(line, x, y) if marker else _band(line, x, y, step)
        parts.append(_path(line, x, y, step))
        if marker:
            dots = zip(map(x, line.x), map(y, line.y), strict=True)
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="1.7" fill="{line.colour}"/>' for a, b in dots]
    parts += _names(lines, y, width - room + 6, size)
    if rows := [line for line in lines if line.at_risk]:
        parts += _at_risk(rows, x, height, size)
        height += round(ROW * size * (len(rows) + 0.25))
    return _element(width, height, size, parts)


def bars(rates: Sequence[tuple[float, float, float] | None]) -> str:
    """An `<svg>` element with a mark and an interval for each rate, from 0 to 100, side by side. It is
    120 units wide for up to eleven. Text is 11 units high.

    Args:
        rates: value, low and high of each series; None leaves its place empty.
    """
    left, top, bottom, size = 26.0, 8.0, 108.0, 11
    right, few = left + max(94, SLOT * len(rates)), len(rates) <= FEW
    y = _Axis([0], (0, 100), bottom, top)
    parts = []
    for tick in (0, 50, 100):
        parts.append(f'<path d="M{left:g} {y(tick):.1f}H{right:g}" stroke="{FAINT}" stroke-width="0.8"/>')
        parts.append(_text(left - 5, y(tick) + 0.35 * size, str(tick), size, "end"))
    for series, rate in enumerate(rates):
        if rate is not None:
            line = Line("", [], [], series)
            x = left + (series + 0.5) * (right - left) / len(rates)
            value, low, high = map(y, rate)
            parts.append(
                f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{line.colour}" stroke-width="1.6"/>'
            )
            parts.append(mark(series, x, value))
            if few:
                parts.append(_text(x, bottom + 16, f"{rate[0]:.0f}", size, "middle", line.colour))
    return _element(right, bottom + (24 if few else 10), size, parts)


def heat_map(
    columns: Sequence[str], rows: Sequence[str], shares: Sequence[Sequence[float | None]], x: str, y: str
) -> str:
    """An `<svg>` element with a cell for each share, the darker the larger, and its percent in it. Text is 11
    units high.

    Args:
        shares: 0-1, one sequence for each row; None leaves its cell empty.
        x: what the columns are.
        y: what the rows are.
    """
    size, width, height, top = 11, 34, 22, 2.5 * ROW * 11
    left = 14 + 0.6 * size * max(map(len, rows))
    middles = [left + (place + 0.5) * width for place in range(len(columns))]
    title = f"{x}; rows: {y}"
    parts = [_text(left, size, title, size, "start")]
    parts += [_text(at, top - 5, name, size, "middle") for at, name in zip(middles, columns, strict=True)]
    for down, (name, in_row) in enumerate(zip(rows, shares, strict=True)):
        above = top + down * height
        parts.append(_text(left - 6, above + 15, name, size, "end"))
        for at, share in zip(middles, in_row, strict=True):
            if share is not None:
                box = f"M{at - 16:.1f} {above:.1f}h32v20h-32Z"
                parts.append(f'<path d="{box}" fill="var(--series-1)" fill-opacity="{0.75 * share:.2f}"/>')
                parts.append(_text(at, above + 14, f"{100 * share:.0f}", size, "middle"))
    right = left + max(len(columns) * width, 0.55 * size * len(title))
    return _element(right, top + len(rows) * height, size, parts)


def mark(series: int, x: float, y: float) -> str:
    """The mark of a series; the first 36 differ in shape or colour."""
    shape, colour = SHAPES[(series + series // SERIES) % len(SHAPES)], f"var(--series-{series % SERIES})"
    return f'<path d="{shape}" transform="translate({x:.1f} {y:.1f})" fill="{colour}"/>'


def legend(series: int) -> str:
    """The mark of a series on its own, as an `<svg>` element."""
    return _element(12, 12, 11, [mark(series, 6, 6)])


def _element(width: float, height: float, size: int, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{1.2 * width:g}"'
        f' font-size="{size}"'
        f' stroke-linejoin="round" aria-hidden="true">\n{chr(10).join(filter(None, parts))}\n</svg>'
    )


def _finite(line: Line) -> Line:
    points = [
        place for place, point in enumerate(zip(line.x, line.y, strict=True)) if all(map(isfinite, point))
    ]
    columns = [
        [column[place] for place in points] if column else []
        for column in (line.x, line.y, line.low, line.high, line.at_risk)
    ]
    return Line(line.name, columns[0], columns[1], line.series, *columns[2:])


def _axes(x: _Axis, y: _Axis, right: float, bottom: float, size: int) -> Iterator[str]:
    """Grid, axes, and the numbers at them."""
    for value in y.ticks(5):
        place = y(value)
        yield f'<path d="M{LEFT} {place:.1f}H{right:.1f}" stroke="{FAINT}" stroke-width="0.6"/>'
        yield _text(LEFT - 6, place + 0.35 * size, _number(value), size, "end")
    yield f'<path d="M{LEFT} {TOP}V{bottom}H{right:.1f}" fill="none" stroke="{FAINT}" stroke-width="0.8"/>'
    for value in x.ticks(6, whole=True):
        place = x(value)
        yield f'<path d="M{place:.1f} {bottom}v3" stroke="{FAINT}" stroke-width="0.8"/>'
        yield _text(place, bottom + 4 + size, _number(value), size, "middle")


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _text(x: float, y: float, text: str, size: int, anchor: str, colour: str = INK) -> str:
    if not text:
        return ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _outline(xs: Sequence[float], ys: Sequence[float], step: bool) -> str:
    """The corners of a line, as the data of a path without its first letter."""
    corners = [f"{xs[0]:.1f} {ys[0]:.1f}"]
    for place in range(1, len(xs)):
        if step:
            corners.append(f"{xs[place]:.1f} {ys[place - 1]:.1f}")
        corners.append(f"{xs[place]:.1f} {ys[place]:.1f}")
    return "L".join(corners)


def _path(line: Line, x: _Axis, y: _Axis, step: bool) -> str:
    data = _outline([*map(x, line.x)], [*map(y, line.y)], step)
    dash = DASHES[line.series % len(DASHES)] if line.name else ""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{data}" fill="none" stroke="{line.colour}" stroke-width="1.9"{dashed}/>'


def _band(line: Line, x: _Axis, y: _Axis, step: bool) -> list[str]:
    if not line.low:
        return []
    xs = [*map(x, line.x)]
    upper = _outline(xs, [*map(y, line.high)], step)
    lower = _outline(xs, [*map(y, line.low)], step).split("L")
    data = f"M{upper}L{'L'.join(reversed(lower))}Z"
    end = Line(line.name, line.x[-1:], line.y[-1:], line.series, line.low[-1:], line.high[-1:])
    return [
        f'<path d="{data}" fill="{line.colour}" fill-opacity="0.13"/>',
        *(_bars(end, x, y) if step else []),
    ]


def _bars(line: Line, x: _Axis, y: _Axis) -> list[str]:
    return [
        f'<path d="M{x(at):.1f} {y(low):.1f}V{y(high):.1f}" stroke="{line.colour}" stroke-width="1.1"/>'
        for at, low, high in zip(line.x, line.low, line.high, strict=False)
    ]


def _names(lines: Sequence[Line], y: _Axis, left: float, size: int) -> list[str]:
    """Each line's name at its right end. Names are moved upright so that none overlap."""
    named = sorted((line for line in lines if line.name), key=lambda line: (-y(line.y[-1]), -line.series))
    gap, heights = ROW * size, list[float]()
    for line in named:  # from the lowest line upwards; places are counted from the top
        height = y(line.y[-1])
        heights.append(min(height, heights[-1] - gap) if heights else height)
    for place in reversed(range(len(heights))):
        ceiling = heights[place + 1] + gap if place + 1 < len(heights) else TOP
        heights[place] = max(heights[place], ceiling)
    return [
        _text(left, height + 0.35 * size, _short(line.name), size, "start", line.colour)
        for line, height in zip(named, heights, strict=True)
    ]


def _at_risk(lines: Sequence[Line], x: _Axis, top: float, size: int) -> Iterator[str]:
    """A row for each line: its numbers at risk at the ticks of the x axis, and its name. What they are stands
    above them, beside the label of the axis."""
    yield _text(2, top - 6, "at risk", size, "start")
    for row, line in enumerate(lines):
        height, numbers = top + (row + 0.75) * ROW * size, dict(zip(line.x, line.at_risk, strict=True))
        for value in x.ticks(6, whole=True):
            if value in numbers:
                anchor = "middle" if x(value) < x.end - size else "end"  # the name is beside the last one
                yield _text(x(value), height, f"{numbers[value]:g}", size, anchor, line.colour)
        yield _text(x.end + 6, height, _short(line.name), size, "start", line.colour)


def _short(name: str, length: int = LONG_NAME) -> str:
    """Shorten a name to fit beside its line, and replace characters that XML does not allow."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in name)
    return clean if len(clean) <= length else clean[: length - 1] + "…"
