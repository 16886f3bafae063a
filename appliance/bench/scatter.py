"""A scatter chart with a front as inline SVG, coloured by the page's style sheet. Knows numbers, no results."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from msgspec import Struct

from appliance.bench.charts import BOTTOM, LEFT, RIGHT, TICKS, TOP, nice_ceiling, shown

WIDTH, HEIGHT = 760, 420
RADIUS = 5
LABEL_DOWN = 4  # so that a number stands level with its mark
MARGIN_RATIO = 0.1  # of what the values span, kept free on either side


class Point(Struct, frozen=True):
    """One mark."""

    label: str
    """A character or two, beside it."""
    title: str
    """What a pointer over it shows."""
    x: float
    y: float
    on_front: bool
    """Front marks are filled, and joined by a line in the order of x."""


def scatter_chart(title: str, x_title: str, y_title: str, points: Sequence[Point]) -> str:
    """An `svg` element of at least one point; y, which is at least 0, begins at 0, and x where it is needed."""
    left, right = x_range([point.x for point in points])
    top = nice_ceiling(max(point.y for point in points) * (1 + MARGIN_RATIO / 2))

    def place(point: Point) -> tuple[float, float]:
        x = LEFT + (point.x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - point.y / top * (HEIGHT - TOP - BOTTOM)

    front = sorted((point for point in points if point.on_front), key=lambda point: point.x)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, front))
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text x="{LEFT}" y="14" class="faint">{escape(y_title)}</text>',
        *_grid(top),
        *_x_axis(x_title, left, right),
        f'<polyline class="line s0" style="fill:none" points="{path}"/>',
    ]
    for point in points:
        parts += _mark(point, *place(point))
    return "\n".join([*parts, "</svg>"])


def x_range(values: Sequence[float]) -> tuple[float, float]:
    """Where the axis begins and ends: round numbers around the values, never the same one twice."""
    low, high = min(values), max(values)
    margin = max((high - low) * MARGIN_RATIO, abs(high) * 0.01, 1e-9)
    step = nice_ceiling((high - low + 2 * margin) / TICKS)
    begin = math.floor((low - margin) / step) * step
    return begin, begin + max(1, math.ceil((high + margin - begin) / step)) * step


def _grid(top: float) -> Iterator[str]:
    for tick in range(TICKS + 1):
        y = HEIGHT - BOTTOM - tick / TICKS * (HEIGHT - TOP - BOTTOM)
        style = "axis" if tick == 0 else "grid"
        yield f'<line class="{style}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        value = shown(top * tick / TICKS)
        yield f'<text class="faint" x="{LEFT - 8}" y="{y + LABEL_DOWN:.1f}" text-anchor="end">{value}</text>'


def _x_axis(title: str, left: float, right: float) -> Iterator[str]:
    for tick in range(TICKS + 1):
        x = LEFT + tick / TICKS * (WIDTH - LEFT - RIGHT)
        value = shown(left + (right - left) * tick / TICKS)
        yield f'<text class="faint" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="faint" x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(title)}</text>'


def _mark(point: Point, x: float, y: float) -> Iterator[str]:
    style = 'class="s0"' if point.on_front else 'class="s1" style="fill:none"'
    mark = f'<circle {style} stroke-width="2" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"/>'
    yield f"<g>{mark}<title>{escape(point.title)}</title></g>"
    yield f'<text x="{x + RADIUS + 4:.1f}" y="{y + LABEL_DOWN:.1f}">{escape(point.label)}</text>'
