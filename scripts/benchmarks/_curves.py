"""Curves over the number of rows as an SVG, both axes logarithmic; readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

LINES = ("#4c78dd", "#e4604e", "#2f9e4f", "#9a6bff", "#d9981b", "#14a3a8")
"""Colours that stand out from white and from black."""
STYLE = """<style>
text { fill: #24292f } .grid { stroke: #d8dee4 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .grid { stroke: #363d46 } }
</style>"""
LEFT, RIGHT, ABOVE, BELOW = 78, 560, 34, 400


def plot(curves: Mapping[str, Sequence[tuple[float, float]]], *, across: str) -> str:
    """Curves of (rows, seconds); each has its name at its end, moved apart where several end together."""
    points = [point for curve in curves.values() for point in curve]
    x_low, x_high = (math.log10(pick(x for x, _ in points)) for pick in (min, max))
    y_low, y_high = (
        math.floor(math.log10(min(y for _, y in points))),
        math.ceil(math.log10(max(y for _, y in points))),
    )

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (RIGHT - LEFT) * (math.log10(x) - x_low) / (x_high - x_low)
        return right, BELOW - (BELOW - ABOVE) * (math.log10(y) - y_low) / (y_high - y_low)

    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 450" font-family="sans-serif" font-size="13">']
    parts.append(STYLE)
    for power in range(y_low, y_high + 1):
        _, at = place(10**x_low, 10**power)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.0f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.0f}" text-anchor="end">{duration(10.0**power)}</text>')
    for power in range(math.ceil(x_low), math.floor(x_high) + 1):
        at, _ = place(10**power, 10**y_low)
        parts.append(f'<path class="grid" d="M{at:.0f} {ABOVE}V{BELOW}"/>')
        parts.append(f'<text x="{at:.0f}" y="{BELOW + 20}" text-anchor="middle">{10**power:,}</text>')
    parts.append(f'<text x="{(LEFT + RIGHT) / 2:.0f}" y="{BELOW + 42}" text-anchor="middle">{across}</text>')
    last = -math.inf
    ends = sorted(curves, key=lambda name: place(*curves[name][-1])[1])
    for name in ends:
        colour, curve = LINES[list(curves).index(name) % len(LINES)], [place(*point) for point in curves[name]]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in curve)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in curve]
        last = max(curve[-1][1], last + 18)
        parts.append(f'<path d="M{RIGHT + 6} {curve[-1][1]:.0f}L{RIGHT + 18} {last:.0f}" stroke="{colour}"/>')
        parts.append(f'<text x="{RIGHT + 24}" y="{last + 4:.0f}" style="fill: {colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def duration(seconds: float) -> str:
    """0.01 -> "10 ms"."""
    return f"{seconds:g} s" if seconds >= 1 else f"{1e3 * seconds:g} ms"
