"""Curves as an SVG file, with logarithmic axes; too little to need a library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, COLUMNS = 420, 300, 2
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 46


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: its points are (x, y), all above 0."""

    name: str
    x_label: str
    unit: str
    points: Sequence[tuple[float, float]]


def short(number: float) -> str:
    """1,000 as 1k, 1,000,000 as 1M; smaller numbers unchanged."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def svg(curves: Sequence[Series]) -> str:
    """A page of curves, each with its axes."""
    lines = -(-len(curves) // COLUMNS)
    width, height = WIDTH * min(COLUMNS, len(curves)), HEIGHT * lines
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for place, curve in enumerate(curves):
        x, y = place % COLUMNS * WIDTH, place // COLUMNS * HEIGHT
        parts += [f'<g transform="translate({x},{y})">', *_panel(curve), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(curve: Series) -> list[str]:
    xs, ys = [x for x, _ in curve.points], [y for _, y in curve.points]
    # Whole decades, so that a curve that looks flat is flat.
    low, high = 10 ** math.floor(math.log10(min(ys))), 10 ** math.ceil(math.log10(max(ys) * 1.0001))

    def across(x: float) -> float:
        span = math.log(max(xs) / min(xs)) or 1.0
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / min(xs)) / span

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(y / low) / math.log(high / low)

    parts = [
        f'<text x="{LEFT}" y="20" font-size="13">{escape(curve.name)}, {escape(curve.unit)}</text>'
    ]
    for decade in range(round(math.log10(low)), round(math.log10(high)) + 1):
        y = down(10.0**decade)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(10.0**decade)}</text>'
        )
    for x in xs:
        parts.append(
            f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 16}" '
            f'text-anchor="middle">{short(x)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{HEIGHT - 10}" '
        f'text-anchor="middle">{escape(curve.x_label)}</text>'
    )
    places = [(across(x), down(y), y) for x, y in curve.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    parts.append(f'<polyline points="{path}" fill="none" stroke="#06c" stroke-width="2"/>')
    for x, y, value in places:
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#06c">'
            f"<title>{value:,.3f}</title></circle>"
        )
    return parts
