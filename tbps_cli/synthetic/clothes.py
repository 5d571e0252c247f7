"""Clothes: legs, torso, sleeves and what sits on them (collars, zips, pockets, logos, folds)."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from tbps_cli.synthetic.body import Axes, Joint, Leg, Limb
from tbps_cli.synthetic.canvas import Canvas, Material, Point, tint
from tbps_cli.synthetic.person import COLOURS, RGB, SKIN, Person

# Torso outline: height, half width, half depth; the garment's looseness is added to both.
_TORSO = (
    (0.848, 0.040, 0.036),
    (0.832, 0.070, 0.046),
    (0.808, 0.098, 0.054),
    (0.74, 0.103, 0.068),
    (0.66, 0.094, 0.064),
    (0.60, 0.088, 0.062),
    (0.53, 0.093, 0.068),
)
_LOOSE = {"t-shirt": 0.005, "shirt": 0.006, "jacket": 0.015, "coat": 0.018, "hoodie": 0.016, "dress": 0.002}
_HEM = {"t-shirt": 0.475, "shirt": 0.465, "jacket": 0.46, "coat": 0.31, "hoodie": 0.46, "dress": 0.30}
_FLARE = {"coat": 0.026, "dress": 0.04}


class Wardrobe:
    """The materials of one person at one scale."""

    def __init__(self, person: Person, canvas: Canvas, height: float) -> None:
        self.person = person
        cast = 0.93 + (person.build * 997) % 1 * 0.14
        self.skin = Material(SKIN[person.skin])
        self.upper = Material(tint(COLOURS[person.upper_colour], cast))
        if person.pattern in ("striped", "checked") and person.accent:
            cloth = _weave(canvas.size, height, self.upper.rgb, COLOURS[person.accent], person.pattern)
            self.upper = Material(self.upper.rgb, cloth)
        self.inner = Material(COLOURS[person.inner or "white"])
        self.lower = Material(_lower_rgb(person, cast))
        self.shoes = Material(COLOURS[person.shoes_colour])
        self.wide = person.build * (1.04 if person.gender == "man" else 0.96)

    @property
    def shoulders(self) -> float:
        """Half the distance between the shoulder joints, in body heights."""
        return 0.092 * self.wide


def _lower_rgb(person: Person, cast: float) -> RGB:
    colour = COLOURS[person.lower_colour or "black"]
    if person.lower == "jeans":
        colour = {"blue": (52, 82, 142), "black": (40, 42, 50), "grey": (112, 118, 130)}.get(
            person.lower_colour or "", colour
        )
    return tint(colour, cast)


def _weave(size: tuple[int, int], height: float, ground: RGB, accent: RGB, pattern: str) -> Image.Image:
    """Cloth with horizontal stripes, or with checks (the crossings darker), as large as the canvas."""
    cloth = Image.new("RGBA", size, (*ground, 255))
    draw = ImageDraw.Draw(cloth)
    period = height * (0.046 if pattern == "striped" else 0.042)
    band = period * (0.42 if pattern == "striped" else 0.3)
    for k in range(math.ceil(size[1] / period)):
        draw.rectangle((0, k * period, size[0], k * period + band), fill=(*accent, 255))
    if pattern == "checked":
        mixed = tuple((a + 2 * b) // 3 for a, b in zip(ground, accent, strict=True))
        for k in range(math.ceil(size[0] / period)):
            draw.rectangle((k * period, 0, k * period + band, size[1]), fill=(*mixed, 255))
    return cloth


def draw_leg(canvas: Canvas, frame: Axes, leg: Leg, wear: Wardrobe) -> None:
    """One leg with its trousers, shorts or bare skin, and the shoe."""
    h, person, wide = frame.height, wear.person, wear.wide
    path = [frame(leg.hip), frame(leg.knee), frame(leg.ankle)]
    bare = person.lower not in ("trousers", "jeans")
    if bare:
        canvas.tube(path, [0.05 * h * wide, 0.036 * h * wide, 0.021 * h], wear.skin)
        draw_shoe(canvas, frame, leg, wear)
        if person.lower == "shorts":
            cut = [a + (b - a) * 0.82 for a, b in zip(path[0], path[1], strict=True)]
            canvas.tube([path[0], (cut[0], cut[1])], [0.058 * h * wide, 0.054 * h * wide], wear.lower)
        return
    draw_shoe(canvas, frame, leg, wear)
    loose = (0.044, 0.034) if person.lower == "trousers" else (0.04, 0.028)
    canvas.tube(path, [0.056 * h * wide, loose[0] * h * wide, loose[1] * h], wear.lower)
    _leg_folds(canvas, path, h)


def _leg_folds(canvas: Canvas, path: list[Point], h: float) -> None:
    (_, _), (kx, ky), (ax, ay) = path
    canvas.fold((kx - 0.03 * h, ky + 0.008 * h), (kx + 0.02 * h, ky), 0.006 * h, -34)
    canvas.fold((kx - 0.02 * h, ky - 0.02 * h), (kx + 0.03 * h, ky - 0.012 * h), 0.005 * h, -26)
    canvas.fold((ax - 0.025 * h, ay - 0.014 * h), (ax + 0.025 * h, ay - 0.02 * h), 0.006 * h, -34)


def draw_shoe(canvas: Canvas, frame: Axes, leg: Leg, wear: Wardrobe) -> None:
    """A shoe along the foot; boots reach up the shin, sneakers have a light sole."""
    h = frame.height
    heel, toe = frame(leg.heel), frame(leg.toe)
    if wear.person.shoes == "boots":
        share = 0.45
        top: Joint = tuple(a + (k - a) * share for a, k in zip(leg.ankle, leg.knee, strict=True))  # type: ignore[assignment]
        canvas.tube([frame(top), frame(leg.ankle), heel], [0.034 * h, 0.029 * h, 0.026 * h], wear.shoes)
    else:
        canvas.tube([frame(leg.ankle), heel], [0.02 * h, 0.024 * h], wear.shoes)
    thick = 0.021 if wear.person.shoes == "shoes" else 0.025
    canvas.tube([heel, toe], [thick * h, (thick - 0.003) * h], wear.shoes)
    if wear.person.shoes == "sneakers":
        sole = Material((225, 225, 222)) if wear.person.shoes_colour != "white" else Material((150, 150, 155))
        below = thick * h * 0.8
        canvas.line([(heel[0], heel[1] + below), (toe[0], toe[1] + below)], sole, 0.009 * h)


def draw_torso(canvas: Canvas, frame: Axes, wear: Wardrobe, rng: np.random.Generator) -> None:
    """The upper garment (a dress and a coat reach down over the legs), with its details."""
    person = wear.person
    outline = _outline(person, wear.wide, frame)
    left, right = _edges(frame, outline)
    canvas.sheath(left, right, wear.upper)
    _folds(canvas, left, right, rng, frame.height)
    facing = math.cos(frame.pose.yaw)
    if facing > 0.3:
        _front(canvas, frame, wear, facing, outline[-1][0])
    elif person.upper == "hoodie":
        x, y = frame(frame.axis(0.83))
        canvas.ball(x, y, 0.062 * frame.height, 0.035 * frame.height, Material(wear.upper.rgb))
    if person.upper in ("jacket", "hoodie"):
        canvas.fold(left[-2], right[-2], 0.008 * frame.height, -30)


def _outline(person: Person, wide: float, frame: Axes) -> list[tuple[float, float, float]]:
    loose = _LOOSE[person.upper]
    rows = [(y, a * wide + loose, b * wide + loose) for y, a, b in _TORSO]
    if person.gender == "woman":
        slim = 0.004 if person.upper in ("coat", "hoodie") else 0.011
        rows[3:6] = [(y, a - slim * (0, 1, 1.6)[k], b + (0.008, 0, 0)[k]) for k, (y, a, b) in enumerate(rows[3:6])]
    hem, flare = _HEM[person.upper], _FLARE.get(person.upper, 0.0)
    swing = 0.16 * frame.pose.stride * (0.53 - hem) / 0.25
    y, a, b = rows[-1]
    rows.append(((y + hem) / 2, a + flare * 0.45, b + flare * 0.45 + swing * 0.5))
    rows.append((hem, a + flare, b + flare + swing))
    return rows


def _edges(frame: Axes, outline: list[tuple[float, float, float]]) -> tuple[list[Point], list[Point]]:
    left, right = [], []
    for y, wide, deep in outline:
        x, py = frame(frame.axis(y))
        half = frame.span(wide, deep)
        left.append((x - half, py))
        right.append((x + half, py))
    return left, right


def _folds(canvas: Canvas, left: list[Point], right: list[Point], rng: np.random.Generator, h: float) -> None:
    """A few creases, denser at the waist, where cloth gathers."""
    for _ in range(6):
        row = int(rng.integers(3, len(left)))
        (x0, y0), (x1, _) = left[row], right[row]
        start, end = sorted(float(v) for v in rng.uniform(0.05, 0.95, 2))
        slope = float(rng.uniform(-0.03, 0.03)) * h
        a, b = (x0 + (x1 - x0) * start, y0 + slope), (x0 + (x1 - x0) * min(end, start + 0.5), y0 - slope)
        canvas.fold(a, b, 0.007 * h, int(rng.choice((-40, -30, 14))))


def _front(canvas: Canvas, frame: Axes, wear: Wardrobe, facing: float, hem: float) -> None:
    """What only the front shows: an open jacket, collar, buttons, pouch, logo."""
    person, h = wear.person, frame.height
    turn = math.sin(frame.pose.yaw) * 0.06

    def at(x: float, y: float) -> Point:
        px, py = frame(frame.axis(y))
        return px + (x * facing + turn) * h, py

    if person.upper in ("jacket", "coat"):
        if person.inner:
            spread = 0.042
            shape = [at(-0.03, 0.845), at(0.03, 0.845), at(spread, 0.7), at(spread * 0.9, hem), at(-spread * 0.9, hem)]
            canvas.fill([*shape, at(-spread, 0.7)], wear.inner, 126)
            for side in (-1, 1):
                canvas.fold(at(side * spread, 0.7), at(side * spread * 0.9, hem), 0.008 * h, -45)
        else:
            canvas.line([at(0, 0.83), at(0, hem)], Material(tint(wear.upper.rgb, 0.6)), 0.006 * h)
        for side in (-1, 1):
            lapel = [at(side * 0.012, 0.848), at(side * 0.05, 0.835), at(side * 0.042, 0.73)]
            canvas.fill(lapel, Material(tint(wear.upper.rgb, 0.8)), 128)
    if person.upper == "shirt":
        canvas.line([at(0, 0.83), at(0, hem)], Material(tint(wear.upper.rgb, 0.72)), 0.006 * h)
        for side in (-1, 1):
            canvas.fill([at(0, 0.825), at(side * 0.045, 0.852), at(side * 0.03, 0.808)], Material(wear.upper.rgb), 138)
    if person.upper == "hoodie":
        pouch = [at(-0.055, 0.575), at(0.055, 0.575), at(0.07, 0.5), at(-0.07, 0.5)]
        canvas.fill(pouch, Material(tint(wear.upper.rgb, 0.86)), 120)
        for side in (-1, 1):
            canvas.line([at(side * 0.016, 0.82), at(side * 0.02, 0.75)], Material((226, 224, 220)), 0.005 * h)
    if person.upper in ("t-shirt", "dress"):
        x, y = at(0, 0.852)
        canvas.disc(x, y, 0.036 * h * facing, 0.022 * h, wear.skin)
    if person.pattern == "logo" and person.accent:
        _logo(canvas, at(0, 0.715), h * facing, h, Material(COLOURS[person.accent]))


def _logo(canvas: Canvas, centre: Point, wide: float, high: float, ink: Material) -> None:
    x, y = centre
    canvas.fill(
        [
            (x - 0.05 * wide, y - 0.028 * high),
            (x + 0.05 * wide, y - 0.028 * high),
            (x + 0.042 * wide, y + 0.012 * high),
            (x, y + 0.04 * high),
            (x - 0.042 * wide, y + 0.012 * high),
        ],
        ink,
        None,
    )


def draw_skirt(canvas: Canvas, frame: Axes, wear: Wardrobe) -> None:
    """A skirt from the waist over the thighs, or the seat that joins two trouser legs."""
    wide, swing = wear.wide, 0.16 * frame.pose.stride
    if wear.person.lower == "skirt":
        rows = [
            (0.62, 0.083, 0.06),
            (0.53, 0.102, 0.078),
            (0.42, 0.112, 0.085 + swing / 2),
            (0.33, 0.124, 0.09 + swing),
        ]
    else:
        rows = [(0.6, 0.082, 0.06), (0.53, 0.094, 0.066), (0.48, 0.096, 0.066), (0.45, 0.07, 0.05)]
    left, right = _edges(frame, [(y, a * wide, b * wide) for y, a, b in rows])
    canvas.sheath(left, right, wear.lower)
    if wear.person.lower == "skirt":
        for share in (0.25, 0.5, 0.72):
            (x0, y0), (x1, _) = left[1], right[1]
            (u0, v0), (u1, _) = left[-1], right[-1]
            canvas.fold((x0 + (x1 - x0) * share, y0), (u0 + (u1 - u0) * share, v0), 0.006 * frame.height, -32)


def draw_arm(canvas: Canvas, frame: Axes, limb: Limb, wear: Wardrobe) -> None:
    """One arm: skin and hand, then the sleeve over it."""
    h, wide = frame.height, wear.wide
    path = [frame(limb.shoulder), frame(limb.elbow), frame(limb.hand)]
    short = wear.person.upper in ("t-shirt", "dress")
    canvas.ball(*path[2], 0.021 * h, 0.026 * h, wear.skin)
    if short:
        canvas.tube(path, [0.03 * h * wide, 0.024 * h * wide, 0.017 * h], wear.skin)
        share = 0.72 if wear.person.upper == "t-shirt" else 0.45
        cut = tuple(a + (b - a) * share for a, b in zip(path[0], path[1], strict=True))
        canvas.tube([path[0], (cut[0], cut[1])], [0.034 * h * wide, 0.036 * h * wide], wear.upper)
        return
    loose = _LOOSE[wear.person.upper] * 0.7
    radii = [(0.032 * wide + loose * 0.6) * h, (0.028 * wide + loose) * h, (0.021 + loose) * h]
    canvas.tube(path, radii, wear.upper)
    (ex, ey), r = path[1], radii[1]
    canvas.fold((ex - r, ey - r * 0.3), (ex + r, ey + r * 0.3), 0.006 * h, -36)
