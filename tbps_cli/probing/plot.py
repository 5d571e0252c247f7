"""The findings of `probe`, `degrade` and `calibration` as drawings: SVG, from the same documents as `--json`.

Written out by hand: a plotting library would be the largest dependency of all, for three drawings of a few lines and
dots, and its files would differ from version to version. These are the same bytes for the same document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from tbps_cli.escape import printable

Document = Mapping[str, Any]

WIDTH = 760
INK, BLUE, BAND, GRID, GREY = "#222", "#2f5fb3", "#c9d8f0", "#e3e3e3", "#666"
PANEL = 250, 190
"""Width and height of the place of one curve."""
INNER = 178, 110
"""Those of its axes."""


def curves(document: Document) -> str:
    """One small plot for each degradation: R@1 from the clean images on, the interval as a band."""
    rows = -(-len(document["curves"]) // 3)
    parts = _head(document, "R@1 of ever worse images", _kept(document))
    top = max(10, -(-max(_ends(document)) // 10) * 10)
    for number, curve in enumerate(document["curves"]):
        row, column = divmod(number, 3)
        parts += _panel(document["clean"], curve, (50 + column * PANEL[0], 116 + row * PANEL[1]), top)
    return _svg(parts, 104 + rows * PANEL[1])


def _kept(document: Document) -> str:
    kept = document["kept"]
    if kept is None:
        return "the clean R@1 is 0"
    low, high = kept["interval"]
    return f"on average {kept['R1']:.1f} % of the clean R@1 is left [{low:.1f}, {high:.1f}]"


def _ends(document: Document) -> Iterable[float]:
    yield document["clean"]["interval"][1]
    for curve in document["curves"]:
        yield from (point["interval"][1] for point in curve["points"])


def _panel(clean: Document, curve: Document, corner: tuple[int, int], top: float) -> list[str]:
    """The plot of one degradation, its axes' upper left at `corner`; `top` is the highest R@1."""
    left, above = corner
    wide, high = INNER
    points = [clean, *curve["points"]]
    xs = [left + wide * place / (len(points) - 1) for place in range(len(points))]

    def y(value: float) -> float:
        return above + high * (1 - value / top)

    parts = [_text(left, above - 12, curve["degradation"], weight="bold")]
    for tick in range(0, int(top) + 1, 20 if top > 50 else 10 if top > 20 else 5):
        parts.append(f'<path d="M{left} {y(tick):.1f}h{wide}" stroke="{GRID}"/>')
        parts.append(_text(left - 6, y(tick) + 4, str(tick), anchor="end", colour=GREY, size=11))
    lower = [(x, y(point["interval"][0])) for x, point in zip(xs, points, strict=True)]
    upper = [(x, y(point["interval"][1])) for x, point in zip(xs, points, strict=True)]
    middle = [(x, y(point["R1"])) for x, point in zip(xs, points, strict=True)]
    parts.append(f'<polygon points="{_places([*lower, *reversed(upper)])}" fill="{BAND}"/>')
    parts.append(f'<polyline points="{_places(middle)}" fill="none" stroke="{BLUE}" stroke-width="2"/>')
    for (x, at), point in zip(middle, points, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{at:.1f}" r="3" fill="{BLUE}"/>')
        parts.append(_text(x, above + high + 16, _step(point), anchor="middle", size=11))
    parts.append(_text(left + wide / 2, above + high + 33, curve["unit"], anchor="middle", colour=GREY, size=11))
    return parts


def _step(point: Document) -> str:
    return f"{point['step']:g}" if "step" in point else "clean"


def _places(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def shares(document: Document) -> str:
    """One line for each change: how often the true caption scores higher, the interval as a bar."""
    left, wide, row = 210, 430, 30
    bottom = 110 + row * len(document["changes"])
    parts = _head(document, "Captions with one thing changed", "share of pairs in which the true caption scores higher")
    for tick in range(0, 101, 25):
        x = left + wide * tick / 100
        dashes = ' stroke-dasharray="4 3"' if tick == 50 else ""
        parts.append(f'<path d="M{x:.1f} 92V{bottom}" stroke="{GREY if tick == 50 else GRID}"{dashes}/>')
        parts.append(_text(x, bottom + 16, f"{tick} %", anchor="middle", colour=GREY, size=11))
    note = "50 %: the change is not noticed"
    parts.append(_text(left + wide / 2, bottom + 33, note, anchor="middle", colour=GREY, size=11))
    for number, change in enumerate(document["changes"]):
        y = 110 + row * number
        low, high = (left + wide * end / 100 for end in change["interval"])
        parts.append(_text(24, y + 4, change["change"], weight="bold"))
        parts.append(
            _text(left - 10, y + 4, f"{change['captions_of']}, {change['pairs']:,}", anchor="end", colour=GREY)
        )
        parts.append(f'<path d="M{low:.1f} {y}H{high:.1f}" stroke="{BAND}" stroke-width="10"/>')
        parts.append(f'<circle cx="{left + wide * change["true_first"] / 100:.1f}" cy="{y}" r="4.5" fill="{BLUE}"/>')
        parts.append(_text(left + wide + 16, y + 4, f"{change['true_first']:.1f} %"))
    return _svg(parts, bottom + 50)


def reliability(document: Document) -> str:
    """How often hits are right, over how likely that was said to be; a dot grows with the hits behind it."""
    parts = _head(document, "How likely a hit is right", "on the diagonal, what is said is true")
    side, above = 270, 120
    for number, (key, name) in enumerate((("hits", "the first ten hits"), ("first_hit", "the first hit"))):
        found, left = document[key], 70 + number * (side + 80)
        parts.append(_text(left, above - 12, f"{name}: ECE {100 * found['ECE']:.1f} %", weight="bold"))
        for tick in range(0, 101, 25):
            x, y = left + side * tick / 100, above + side * (1 - tick / 100)
            parts.append(f'<path d="M{left} {y:.1f}h{side}M{x:.1f} {above}v{side}" stroke="{GRID}"/>')
            parts.append(_text(left - 6, y + 4, str(tick), anchor="end", colour=GREY, size=11))
            parts.append(_text(x, above + side + 16, str(tick), anchor="middle", colour=GREY, size=11))
        ends = f"M{left} {above + side}L{left + side} {above}"
        parts.append(f'<path d="{ends}" stroke="{GREY}" stroke-dasharray="4 3"/>')
        places = [(left + side * row["said"], above + side * (1 - row["right"])) for row in found["bins"]]
        parts.append(f'<polyline points="{_places(places)}" fill="none" stroke="{BLUE}" stroke-width="2"/>')
        most = max(row["hits"] for row in found["bins"])
        for (x, y), row in zip(places, found["bins"], strict=True):
            radius = 2.5 + 5 * (row["hits"] / most) ** 0.5
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{BLUE}"/>')
        bottom = above + side + 33
        parts.append(_text(left + side / 2, bottom, "said, %", anchor="middle", colour=GREY, size=11))
        parts.append(_text(left, above - 30, "right, %", colour=GREY, size=11))
    return _svg(parts, above + side + 50)


def _head(document: Document, title: str, finding: str) -> list[str]:
    origin = f"{document['method']} · {document['run']} · {document['data']} {document['split']}"
    level = f"; {document['level']:g} % intervals over persons" if "level" in document else ""
    return [
        _text(24, 28, title, weight="bold", size=16),
        _text(24, 50, f"{finding}{level}"),
        _text(24, 69, printable(origin), colour=GREY, size=11),
    ]


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = INK,
    size: int = 13,
) -> str:
    look = f'text-anchor="{anchor}" font-weight="{weight}" fill="{colour}" font-size="{size}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'


def _svg(parts: Iterable[str], height: int) -> str:
    box = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="white"/>', *parts, "</svg>"]) + "\n"
