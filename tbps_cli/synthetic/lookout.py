"""What one camera of the drawn street sees at a time: the frame, and the truth about everybody in it.

People are painted from the farthest to the nearest over an empty scene, by the renderer of the drawn pedestrians.
Which pixel belongs to whom is noted on the way, so that boxes and visible shares are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tbps_cli.synthetic.camera import Camera, cast_shadow, looking_down
from tbps_cli.synthetic.figure import draw_figure
from tbps_cli.synthetic.person import Person
from tbps_cli.synthetic.scene import FOCAL, HEIGHT, WIDTH, paint_scene
from tbps_cli.synthetic.walks import Visit

LENSES = (
    Camera("cam1", "street", (1.0, 1.0, 0.98), 1.0, 0.0, 3.0, 90, (0, 0), 0.31, 2.0, 0.7, 0.5),
    Camera("cam2", "plaza", (1.04, 1.02, 1.0), 1.03, 0.2, 3.0, 88, (0, 0), 0.27, 2.1, -0.7, 0.5),
    Camera("cam3", "grass", (0.95, 0.97, 0.97), 0.95, 0.35, 3.5, 84, (0, 0), 0.33, 1.9, 0.6, 0.4),
    Camera("cam4", "street", (0.93, 0.97, 1.05), 0.92, 0.4, 4.0, 80, (0, 0), 0.29, 2.0, -0.6, 0.35),
    Camera("cam5", "plaza", (0.97, 0.92, 0.87), 0.95, 0.4, 4.0, 80, (0, 0), 0.26, 2.1, 0.5, 0.4),
    Camera("cam6", "grass", (1.02, 1.03, 0.93), 1.04, 0.2, 3.0, 86, (0, 0), 0.34, 1.85, -0.8, 0.5),
)
"""The cameras of the street, as `camera.CAMERAS` has those of the crops; theirs have no sizes of crops."""

_GROUND = 576
"""Rows of the painted scene that a frame of 4:3 shows, from the bottom."""

_TALLEST = 240
"""Above so many pixels a figure is painted smaller and enlarged: cloth texture covers no more."""

_SOLID = 128
_GRAIN = 64
_EDGE = 4
"""Pixels that a blur reaches, at the strengths of these lenses."""


@dataclass(frozen=True)
class InFrame:
    """One person in one frame."""

    visit: int
    box: tuple[int, int, int, int]
    """x, y, width, height in pixels of all that is the person's, with bag and umbrella, cut at the frame."""
    visible: float
    """Share of the person's pixels that nobody hides and that lie within the frame."""


@dataclass(frozen=True)
class _Painted:
    """One person in one frame, while others may still be painted over."""

    box: tuple[int, int, int, int] | None
    """None: outside the frame."""
    solid: NDArray[np.bool_]
    """Which pixels of the box are the person's."""
    pixels: int
    """Of the whole person, those outside the frame too."""
    shadow: tuple[int, int, int, int]
    """Left, top, right, bottom of the ground that the shadow darkens."""


class Lookout:
    """One camera of the street, its scene painted once."""

    def __init__(self, number: int, size: tuple[int, int], seed: int) -> None:
        self.lens = LENSES[number]
        self.size = size
        rng = np.random.default_rng((seed, 2**31 + 3, number))
        scene = paint_scene(self.lens.place, self.lens.horizon, self.lens.raised, rng, passers_by=False)
        wide, high = shown_part(size)
        left, top = (WIDTH - wide) / 2, HEIGHT - high
        self.scale = size[0] / wide
        self.horizon = (scene.horizon - top) * self.scale
        self._blur = ImageFilter.GaussianBlur(self.lens.blur + 0.25)
        self._sharp = scene.image.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + wide, HEIGHT))
        self._soft = self._sharp.filter(self._blur)
        self._grain = rng.normal(0, self.lens.noise, (size[1] + _GRAIN, size[0] + _GRAIN, 1)).round().astype(np.int16)
        self._table = [
            max(0, min(255, round(value * gain * self.lens.contrast + 118 * (1 - self.lens.contrast))))
            for gain in self.lens.gains
            for value in range(256)
        ]
        self._seed = (seed, 2**31 + 4, number)

    def look(
        self, frame: int, seconds: float, walkers: Sequence[tuple[int, Visit, Person]]
    ) -> tuple[Image.Image, list[InFrame]]:
        """Frame number `frame` and who is in it; walkers: (number of the visit, visit, person) of all on their way."""
        sharp, soft = self._sharp.copy(), self._soft.copy()
        owner = np.full((self.size[1], self.size[0]), -1, np.int32)
        placed, changed = [], []
        for number, visit, person in sorted(walkers, key=lambda walker: -walker[1].place(seconds)[1]):
            painted = self._paint(sharp, visit, person, seconds)
            changed += [painted.shadow]
            if painted.box:
                x, y, wide, high = painted.box
                owner[y : y + high, x : x + wide][painted.solid] = number
                placed.append((number, painted))
                changed.append((x, y, x + wide, y + high))
        for box in changed:  # what did not change is blurred already
            self._soften(sharp, soft, box)
        seen = []
        for number, painted in placed:
            x, y, wide, high = painted.box or (0, 0, 0, 0)
            shown = int((owner[y : y + high, x : x + wide] == number).sum())
            seen.append(InFrame(number, (x, y, wide, high), round(shown / painted.pixels, 3)))
        return self._develop(soft, frame), sorted(seen, key=lambda one: one.visit)

    def _paint(self, image: Image.Image, visit: Visit, person: Person, seconds: float) -> _Painted:
        """Paint one person with the shadow."""
        across, away = visit.place(seconds)
        tall = FOCAL * self.scale / away
        x, y = self.size[0] / 2 + across * tall, self.horizon + self.lens.raised * tall
        figure, foot = self._figure(visit, person, seconds, tall, (x % 1, y % 1))
        left, top = math.floor(x) - foot[0], math.floor(y) - foot[1]
        shadow = _shade(image, (x, y), tall, self.lens)
        image.paste(figure, (left, top), figure)
        solid = np.asarray(figure.getchannel("A")) >= _SOLID
        pixels = int(solid.sum())
        solid = solid[max(0, -top) : max(0, self.size[1] - top), max(0, -left) : max(0, self.size[0] - left)]
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        if not rows.size:
            return _Painted(None, solid, pixels, shadow)
        box = (
            max(left, 0) + int(columns[0]),
            max(top, 0) + int(rows[0]),
            int(np.ptp(columns)) + 1,
            int(np.ptp(rows)) + 1,
        )
        return _Painted(box, solid[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], pixels, shadow)

    def _soften(self, sharp: Image.Image, soft: Image.Image, box: tuple[int, int, int, int]) -> None:
        """Blur the part of `sharp` in and closely around (left, top, right, bottom), and put it into `soft`."""
        left, top = max(0, box[0] - _EDGE), max(0, box[1] - _EDGE)
        right, bottom = min(self.size[0], box[2] + _EDGE), min(self.size[1], box[3] + _EDGE)
        if right <= left or bottom <= top:
            return
        around = (max(0, left - _EDGE), max(0, top - _EDGE), right + _EDGE, bottom + _EDGE)
        patch = sharp.crop((*around[:2], min(around[2], self.size[0]), min(around[3], self.size[1])))
        patch = patch.filter(self._blur)
        inside = left - around[0], top - around[1], right - around[0], bottom - around[1]
        soft.paste(patch.crop(inside), (left, top))

    def _figure(
        self, visit: Visit, person: Person, seconds: float, tall: float, rest: tuple[float, float]
    ) -> tuple[Image.Image, tuple[int, int]]:
        """The painted person and the pixel in it where the feet are; `rest` is the part of a pixel beyond."""
        shrink = max(1.0, tall / _TALLEST)
        painted = tall / shrink
        foot = round(painted * 0.58), round(painted * 1.32)
        size = 2 * foot[0], foot[1] + round(painted * 0.13)
        at = foot[0] + rest[0] / shrink, foot[1] + rest[1] / shrink
        # the same draws in every frame: folds stay where they are on the cloth
        rng = np.random.default_rng((*self._seed, visit.person))
        stance = visit.standing(person, seconds)
        figure = draw_figure(person, stance, size, at, painted, looking_down(self.lens), self.lens.light, rng)
        if shrink > 1:
            size = round(size[0] * shrink), round(size[1] * shrink)
            figure = figure.resize(size, Image.Resampling.BILINEAR)
        return figure, (round(foot[0] * shrink), round(foot[1] * shrink))

    def _develop(self, image: Image.Image, frame: int) -> Image.Image:
        """Exposure, tint, contrast and sensor noise, as the crops' cameras have them."""
        left, top = np.random.default_rng((*self._seed, 2**31, frame)).integers(0, _GRAIN, 2).tolist()
        grain = self._grain[top : top + self.size[1], left : left + self.size[0]]
        return Image.fromarray((np.asarray(image.point(self._table), np.int16) + grain).clip(0, 255).astype(np.uint8))


def shown_part(size: tuple[int, int]) -> tuple[float, float]:
    """(width, height) of the part of the painted scene that a frame of this size shows."""
    high = min(float(_GROUND), WIDTH * size[1] / size[0])
    return high * size[0] / size[1], high


def _shade(image: Image.Image, feet: tuple[float, float], tall: float, lens: Camera) -> tuple[int, int, int, int]:
    """Darken the ground by one person's shadow; returns the part of the frame that was worked on."""
    left, top = math.floor(feet[0] - 0.7 * tall), math.floor(feet[1] - 0.3 * tall)
    box = left, top, left + round(1.4 * tall), top + round(0.45 * tall)
    patch = image.crop(box)
    cast_shadow(patch, (feet[0] - left, feet[1] - top), tall, lens, lens.light)
    image.paste(patch, (left, top))
    return box
