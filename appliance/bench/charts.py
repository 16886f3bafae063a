"""Line charts as inline SVG, coloured by the page's style sheet. Knows numbers and labels, no results.

Written here, as it is a page long: the libraries that draw SVG bring megabytes, scripts, or a licence to think about.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape

from msgspec import Struct

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 20, 44, 44  # room for labels and legend
TICKS = 5
MARKERS = ("circle", "square", "diamond", "triangle")  # so that series can be told apart without colours
COLOURS = 4  # that the style sheet has
LEGEND_STEP = 100

STYLE = """
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
svg .faint { fill: var(--faint); }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .axis { stroke: var(--faint); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; }
svg .value { font-weight: 600; }
.s0 { stroke: var(--s0); fill: var(--s0); } .s1 { stroke: var(--s1); fill: var(--s1); }
.s2 { stroke: var(--s2); fill: var(--s2); } .s3 { stroke: var(--s3); fill: var(--s3); }
"""


class Series(Struct, frozen=True):
    """A line; None where there is no value at an x."""

    name: str
    values: list[float | None]


def line_chart(title: str, unit: str, x_title: str, x_labels: Sequence[str], series: Sequence[Series]) -> str:
    """An `svg` element: the x are evenly spaced, y begins at 0. A series of one point is a marker with its value.

    `x_labels` and each series have the same length, at least 1.
    """
    top = nice_ceiling(max((value for line in series for value in line.values if value is not None), default=0.0))
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}, {unit}, by {x_title}")}">',
        f'<text x="{LEFT}" y="14" class="faint">{escape(unit)}</text>',
        *_legend(series),
        *_grid(top),
        *_x_axis(x_title, x_labels),
    ]
    for number, line in enumerate(series):
        points = [
            (_x(place, len(x_labels)), _y(value, top), value)
            for place, value in enumerate(line.values)
            if value is not None
        ]
        parts += _line(number, line.name, points)
    return "\n".join([*parts, "</svg>"])


def nice_ceiling(value: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that is not below `value`; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if factor * power >= value)


def _x(place: int, count: int) -> float:
    return LEFT + (place + 0.5) * (WIDTH - LEFT - RIGHT) / count


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)


def _legend(series: Sequence[Series]) -> Iterator[str]:
    if len(series) < 2:
        return
    for number, line in enumerate(series):
        x = LEFT + 8 + number * LEGEND_STEP
        yield _marker(number, x, 28)
        yield f'<text x="{x + 10}" y="32">{escape(line.name)}</text>'


def _grid(top: float) -> Iterator[str]:
    for step in range(TICKS + 1):
        value = top * step / TICKS
        y = _y(value, top)
        style = "axis" if step == 0 else "grid"
        yield f'<line class="{style}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="faint" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{shown(value)}</text>'


def _x_axis(title: str, labels: Sequence[str]) -> Iterator[str]:
    for place, label in enumerate(labels):
        x = _x(place, len(labels))
        yield f'<text class="faint" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(label)}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="faint" x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(title)}</text>'


def _line(number: int, name: str, points: Sequence[tuple[float, float, float]]) -> Iterator[str]:
    colour = f"s{number % COLOURS}"
    if len(points) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        yield f'<polyline class="line {colour}" style="fill:none" points="{path}"/>'
    for x, y, value in points:
        yield f"<g>{_marker(number, x, y)}<title>{escape(name)}: {shown(value)}</title></g>"
        if len(points) == 1:
            yield f'<text class="value" x="{x + 9:.1f}" y="{y + 4:.1f}">{shown(value)}</text>'


def _marker(number: int, x: float, y: float) -> str:
    colour = f'class="s{number % COLOURS}"'
    match MARKERS[number % len(MARKERS)]:
        case "circle":
            return f'<circle {colour} cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        case "square":
            return f'<rect {colour} x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
        case "diamond":
            corners = [(0, -5), (5, 0), (0, 5), (-5, 0)]
        case _:
            corners = [(0, -5), (5, 4), (-5, 4)]
    points = " ".join(f"{x + right:.1f},{y + down:.1f}" for right, down in corners)
    return f'<polygon {colour} points="{points}"/>'


def shown(value: float) -> str:
    """A number with as many digits as a reader wants."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"
