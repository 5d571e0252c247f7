"""Paint: a colour layer and a shade layer, drawn at twice the size and merged once.

Every shape is painted flat in the colour layer and, as nested shapes around a lighter core, in the
shade layer. The shade is blurred and laid over the colours as hard light, which turns flat limbs
into round ones and strokes into folds, at the price of one blur a figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from tbps_cli.synthetic.person import RGB

Point = tuple[float, float]

OVERSAMPLING = 2
_EDGE, _SIDE, _CORE = 98, 122, 136
"""Shade at the rim, on the body and where the light falls; 128 leaves a colour as it is."""


@dataclass(frozen=True)
class Material:
    """A colour, or a patterned cloth as large as the canvas."""

    rgb: RGB
    cloth: Image.Image | None = None

    def darker(self, factor: float) -> Material:
        """The plain colour, multiplied."""
        return Material(tint(self.rgb, factor))


def tint(rgb: RGB, factor: float) -> RGB:
    """`rgb` times `factor`, kept within 0..255."""
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in rgb)
    return red, green, blue


class Canvas:
    """One figure being painted; coordinates are pixels of the oversampled layers.

    light: -1 (from the left) to 1 (from the right): where the lighter core of a shape lies.
    """

    def __init__(self, width: int, height: int, light: float) -> None:
        self.size = (width * OVERSAMPLING, height * OVERSAMPLING)
        self.light = light
        self.colour = Image.new("RGBA", self.size)
        self.shade = Image.new("L", self.size, 128)
        self._paint = ImageDraw.Draw(self.colour)
        self._shadow = ImageDraw.Draw(self.shade)

    def fill(self, points: Sequence[Point], material: Material, shade: int | None = _SIDE) -> None:
        """Paint a polygon; `shade` None keeps the shade below it."""
        if material.cloth is None:
            self._paint.polygon(points, fill=(*material.rgb, 255))
        else:
            self._clothe(points, material.cloth)
        if shade is not None:
            self._shadow.polygon(points, fill=shade)

    def _clothe(self, points: Sequence[Point], cloth: Image.Image) -> None:
        left = max(0, math.floor(min(x for x, _ in points)))
        top = max(0, math.floor(min(y for _, y in points)))
        right = min(self.size[0], math.ceil(max(x for x, _ in points)) + 1)
        bottom = min(self.size[1], math.ceil(max(y for _, y in points)) + 1)
        if right <= left or bottom <= top:
            return
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in points], fill=255)
        self.colour.paste(cloth.crop((left, top, right, bottom)), (left, top), mask)

    def sheath(self, left: Sequence[Point], right: Sequence[Point], material: Material) -> None:
        """Paint the shape between two edges (both from top to bottom), shaded as something round."""
        self.fill([*left, *reversed(right)], material, _EDGE)
        for share, shade in ((0.78, _SIDE), (0.4, _CORE)):
            ends = [_between(a, b, share, self.light) for a, b in zip(left, right, strict=True)]
            self._shadow.polygon([a for a, _ in ends] + [b for _, b in reversed(ends)], fill=shade)

    def tube(self, points: Sequence[Point], radii: Sequence[float], material: Material) -> None:
        """Paint a limb: a polyline with a radius at each point, round at the joints."""
        for start, end, first, last in zip(points, points[1:], radii, radii[1:], strict=False):
            self.fill(_segment(start, end, first, last), material, _EDGE)
        for (x, y), radius in zip(points, radii, strict=True):
            self.disc(x, y, radius, radius, material, None)
        for share, shade in ((0.72, _SIDE), (0.34, _CORE)):
            shifted = [(x + self.light * (1 - share) * r * 0.7, y) for (x, y), r in zip(points, radii, strict=True)]
            for k in range(len(points) - 1):
                quad = _segment(shifted[k], shifted[k + 1], radii[k] * share, radii[k + 1] * share)
                self._shadow.polygon(quad, fill=shade)

    def disc(self, x: float, y: float, rx: float, ry: float, material: Material, shade: int | None = _SIDE) -> None:
        """Paint an upright ellipse."""
        if material.cloth is not None:
            turns = [k * math.tau / 14 for k in range(14)]
            self.fill([(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns], material, shade)
            return
        box = (x - rx, y - ry, x + rx, y + ry)
        self._paint.ellipse(box, fill=(*material.rgb, 255))
        if shade is not None:
            self._shadow.ellipse(box, fill=shade)

    def ball(self, x: float, y: float, rx: float, ry: float, material: Material) -> None:
        """Paint an ellipse that looks round."""
        self.disc(x, y, rx, ry, material, _EDGE)
        for share, shade in ((0.8, _SIDE), (0.45, _CORE)):
            cx, cy = x + self.light * (1 - share) * rx * 0.7, y - (1 - share) * ry * 0.4
            self._shadow.ellipse((cx - rx * share, cy - ry * share, cx + rx * share, cy + ry * share), fill=shade)

    def line(self, points: Sequence[Point], material: Material, width: float) -> None:
        """Draw a stroke in colour."""
        self._paint.line(points, fill=(*material.rgb, 255), width=max(1, round(width)), joint="curve")

    def fold(self, start: Point, end: Point, width: float, depth: int) -> None:
        """Crease the shade from `start` to `end`; depth below 0 is dark, above 0 light."""
        self._shadow.line((start, end), fill=max(40, min(160, 124 + depth)), width=max(1, round(width)))

    def finish(self, grain: int) -> Image.Image:
        """The figure at its true size, RGBA; `grain` chooses a part of the cloth texture."""
        shade = self.shade.filter(ImageFilter.BoxBlur(self.size[1] / 170))
        left, top = grain % 97, grain // 97 % 97
        rumpled = _texture(800, 800).crop((left, top, left + self.size[0], top + self.size[1]))
        shade = ImageChops.add(shade, rumpled, 1, -128)
        lit = ImageChops.hard_light(self.colour.convert("RGB"), Image.merge("RGB", (shade, shade, shade)))
        lit.putalpha(self.colour.getchannel("A"))
        return lit.reduce(OVERSAMPLING)


@lru_cache(maxsize=64)
def _texture(width: int, height: int) -> Image.Image:
    """How rumpled cloth varies around 128: wide dents, narrower creases, and less light lower down."""
    rng = np.random.default_rng(7)
    dents = np.linspace(5, -9, height, dtype=np.float32)[:, None]
    for cell, strength in ((48, 7.0), (20, 6.0), (9, 4.0)):
        noise = rng.normal(0, strength, (height // cell + 2, width // cell + 2)).astype(np.float32)
        dents = dents + np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((128 + dents).clip(0, 255).astype(np.uint8))


def _between(a: Point, b: Point, share: float, light: float) -> tuple[Point, Point]:
    """The middle `share` of the stretch a-b, moved towards the light."""
    middle = 0.5 + light * (1 - share) * 0.35
    low, high = middle - share / 2, middle + share / 2
    dx, dy = b[0] - a[0], b[1] - a[1]
    return (a[0] + dx * low, a[1] + dy * low), (a[0] + dx * high, a[1] + dy * high)


def _segment(start: Point, end: Point, first: float, last: float) -> list[Point]:
    """The four corners of a tapered stroke."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    nx, ny = -dy / length, dx / length
    return [
        (start[0] + nx * first, start[1] + ny * first),
        (end[0] + nx * last, end[1] + ny * last),
        (end[0] - nx * last, end[1] - ny * last),
        (start[0] - nx * first, start[1] - ny * first),
    ]
