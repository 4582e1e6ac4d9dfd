"""Charts as small SVG, for a page or as a file of their own; colours come from the style sheet.

Series are told apart by colour and, for lines, by dashes; each chart has a text for screen
readers, each point one for the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 400, 250
COLOURS = 6  # series with a colour and a label; the others are drawn behind them in grey
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 42
_LINE = 15  # height of a line of text


class Series(NamedTuple):
    """A name, its points ``(x, y)``, and a sign at the last of them."""

    name: str
    points: list[tuple[float, float]]
    end: str = ""


class Bars(NamedTuple):
    """A name and, per group, a mean and its standard error (nan: the group is empty)."""

    name: str
    values: list[tuple[float, float]]


class Interval(NamedTuple):
    """A label, a value, and the ends of its interval."""

    label: str
    value: float
    low: float
    high: float


class Axis(NamedTuple):
    """A label, one value per line, and the ticks: places among the values, and their texts."""

    label: str
    values: list[float]
    ticks: list[tuple[float, str]]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that span an interval: 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= about)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def figure(value: float) -> str:
    """A number for an axis: short, without an exponent where that is short."""
    if value == 0 or 1e-4 < abs(value) < 1e6:
        return f"{value:.6f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.1e}"


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    mark: tuple[float, str] | None = None,
    from_zero: bool = False,
    width: int = WIDTH,
    style: str = "",
) -> Markup:
    """Lines over a common x axis, each labelled at its end.

    Parameters
    ----------
    title : str
        For screen readers; the page has a heading of its own.
    series : list of Series
        Not empty, each with a point.
    x_label : str
    mark : tuple, optional
        x of a vertical line, and its label.
    from_zero : bool
        Whether the y axis begins at 0.
    width : int
    style : str
        Style sheet of a chart that is a file of its own.
    """
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    labelled = series[:COLOURS] if len(series) > 1 else []
    right = _RIGHT + (max(7 * len(one.name) for one in labelled) + 8 if labelled else 0)
    end = width - right
    low = min(0.0, *ys) if from_zero else min(ys)
    y_ticks = ticks(low, max(ys))
    at_x = _scale(min(xs), max(xs), _LEFT, end)
    at_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    parts = _y_axis(y_ticks, at_y, _LEFT, end)
    x_ticks = [x for x in ticks(min(xs), max(xs), 6) if min(xs) <= x <= max(xs) and x == int(x)]
    parts += [_text(at_x(x), HEIGHT - _BOTTOM + 18, figure(x), "middle") for x in x_ticks]
    parts.append(_text((_LEFT + end) / 2, HEIGHT - 6, x_label, "middle", "quiet"))
    if mark is not None:
        x = at_x(mark[0])
        anchor = "end" if x > (_LEFT + end) / 2 else "start"
        parts.append(_line(x, _TOP, x, HEIGHT - _BOTTOM, "mark"))
        beside = x + (-5 if anchor == "end" else 5)
        bottom = HEIGHT - _BOTTOM - 8
        near = [at_y(y) for one in series for px, y in one.points if abs(at_x(px) - x) < 90]
        is_free = all(y < bottom - _LINE for y in near)
        parts.append(_text(beside, bottom if is_free else _TOP + 8, mark[1], anchor))
    for number, one in reversed(list(enumerate(series))):
        parts += _polyline(one, min(number, COLOURS), at_x, at_y)
    if labelled:
        ends = _spread([at_y(one.points[-1][1]) for one in labelled])
        for number, (one, y) in enumerate(zip(labelled, ends, strict=True)):
            parts.append(_text(end + 8, y + 4, one.name, "start", f"t{number}"))
    return _svg(title, width, HEIGHT, parts, style)


def parallel_coordinates(title: str, axes: Sequence[Axis], tips: Sequence[str]) -> Markup:
    """A line per row of `tips` through its values, the first row on top and strongest.

    Axes go from left to right; the pointer shows the tip of a line.
    """
    room = 135
    width, bottom = room * len(axes) + 20, HEIGHT - 12
    parts, places = [], []
    for number, axis in enumerate(axes):
        x = room * (number + 0.5) + 20
        marks = [place for place, _ in axis.ticks]
        span = [*axis.values, *marks]
        at_y = _scale(min(span), max(span), bottom, _TOP + 2 * _LINE)
        places.append([(x, at_y(value)) for value in axis.values])
        parts.append(_line(x, _TOP + 2 * _LINE, x, bottom, "zero"))
        parts.append(_text(x, _TOP + 8, axis.label, "middle"))
        parts += [_text(x - 7, at_y(y) + 4, text, "end", "label") for y, text in axis.ticks]
    lines = []
    for number, (tip, *points) in enumerate(zip(tips, *places, strict=True)):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        share = number / max(len(tips) - 1, 1)  # 0: the first
        style = f"stroke-width:{3 - 2 * share:.1f};stroke-opacity:{1 - 0.85 * share:.2f}"
        shape = '<polyline class="line row" style="{}" points="{}"><title>{}</title></polyline>'
        lines.append(Markup(shape).format(style, path, tip))
    return _svg(title, width, HEIGHT, [*reversed(lines), *parts])


def bar_chart(title: str, groups: Sequence[str], bars: Sequence[Bars], x_label: str) -> Markup:
    """Groups of bars with their standard errors; a legend belongs beside it."""
    tops = [m + e for one in bars for m, e in one.values if not math.isnan(m)]
    y_ticks = ticks(0.0, max([*tops, 1e-4]))
    at_y = _scale(0.0, y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    parts = _y_axis(y_ticks, at_y, _LEFT, WIDTH - _RIGHT)
    room = (WIDTH - _RIGHT - _LEFT) / max(len(groups), 1)
    width = min(34.0, 0.8 * room / max(len(bars), 1))
    for place, label in enumerate(groups):
        middle = _LEFT + (place + 0.5) * room
        parts.append(_text(middle, HEIGHT - _BOTTOM + 18, label, "middle"))
        for number, one in enumerate(bars):
            mean, error = one.values[place]
            if not math.isnan(mean):
                x = middle + (number - len(bars) / 2) * width
                tip = f"{one.name}, {label}: {mean:.4f} (standard error {error:.4f})"
                parts += _bar(x, width, at_y, mean, error, number, tip)
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, x_label, "middle", "quiet"))
    return _svg(title, WIDTH, HEIGHT, parts)


def interval_chart(title: str, rows: Sequence[Interval], x_label: str, style: str = "") -> Markup:
    """Values with intervals, one row each, against a line at 0; `style` as of a line chart."""
    row_height, width, left = 48, WIDTH + 160, 36
    height = _TOP + row_height * len(rows) + _BOTTOM
    x_ticks = ticks(min([0.0, *(r.low for r in rows)]), max([0.0, *(r.high for r in rows)]))
    at_x = _scale(x_ticks[0], x_ticks[-1], left, width - left)
    parts = [_text(at_x(x), height - _BOTTOM + 18, figure(x), "middle") for x in x_ticks]
    parts += [_line(at_x(x), _TOP, at_x(x), height - _BOTTOM, "grid") for x in x_ticks]
    parts.append(_line(at_x(0), _TOP, at_x(0), height - _BOTTOM, "zero"))
    parts.append(_text(width / 2, height - 6, x_label, "middle", "quiet"))
    for number, row in enumerate(rows):
        y = _TOP + row_height * number + 32  # below the row's label, which can be long
        tip = f"{row.label}: {row.value:+.4f}, {row.low:+.4f} to {row.high:+.4f}"
        parts.append(_text(12, y - 16, row.label, kind="label"))
        parts.append(_line(at_x(row.low), y, at_x(row.high), y, "whisker"))
        parts += [_line(at_x(x), y - 5, at_x(x), y + 5, "whisker") for x in (row.low, row.high)]
        parts.append(_dot(at_x(row.value), y, 5, "s0", tip))
    return _svg(title, width, height, parts, style)


# -- parts ------------------------------------------------------------------------------------


def _scale(low: float, high: float, start: float, end: float):
    span = high - low
    return lambda value: start + (end - start) * ((value - low) / span if span else 0.5)


def _y_axis(values, at_y, left, right) -> list[Markup]:
    parts = [_line(left, at_y(v), right, at_y(v), "grid") for v in values]
    return parts + [_text(left - 7, at_y(v) + 4, figure(v), "end") for v in values]


def _polyline(one: Series, number: int, at_x, at_y) -> list[Markup]:
    points = [(at_x(x), at_y(y)) for x, y in one.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [Markup('<polyline class="line l{}" points="{}"/>').format(number, path)]
    size = 3 if len(points) <= 40 else 1.5
    for (x, y), (epoch, value) in zip(points, one.points, strict=True):
        tip = f"{one.name}, {figure(epoch)}: {value:.4f}"
        parts.append(_dot(x, y, size, f"s{number}", tip))
    if one.end:
        parts.append(_text(x, y + 6, one.end, "middle", f"end t{number}"))
    return parts


def _bar(x, width, at_y, mean, error, number, tip) -> list[Markup]:
    middle, top = x + width / 2, at_y(mean)
    shape = Markup(
        '<rect class="s{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
    )
    size = (f"{x + 1:.1f}", f"{top:.1f}", f"{width - 2:.1f}", f"{at_y(0) - top:.1f}")
    ends = (at_y(max(mean - error, 0)), at_y(mean + error))
    return [shape.format(number, *size, tip), _line(middle, ends[0], middle, ends[1], "whisker")]


def _spread(places: list[float]) -> list[float]:
    """Move labels apart that would lie on one another, keeping their order."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = dict(zip(order, sorted(places), strict=True))
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + _LINE)
    over = max(0.0, moved[order[-1]] - (HEIGHT - _BOTTOM))
    return [moved[i] - over for i in range(len(places))]


def _text(x, y, text, anchor="start", kind="") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, f"{x:.1f}", f"{y:.1f}", anchor, text
    )


def _line(x1, y1, x2, y2, kind) -> Markup:
    ends = (f"{value:.1f}" for value in (x1, y1, x2, y2))
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, *ends)


def _dot(x, y, radius, kind, tip) -> Markup:
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
        kind, f"{x:.1f}", f"{y:.1f}", radius, tip
    )


def _svg(title: str, width: int, height: int, parts: Sequence[Markup], style: str = "") -> Markup:
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" aria-label="{}" '
        'viewBox="0 0 {} {}">'
    ).format(title, width, height)
    sheet = Markup("<style>{}</style>").format(Markup(style)) if style else Markup("")
    return head + sheet + Markup("").join(parts) + Markup("</svg>")


def legend(names: Sequence[str]) -> Markup:
    """Legend of a chart, in the order of its series."""
    item = '<li><span class="swatch s{}" aria-hidden="true"></span>{}</li>'
    items = [Markup(item).format(n, escape(name)) for n, name in enumerate(names)]
    return Markup('<ul class="legend">') + Markup("").join(items) + Markup("</ul>")
