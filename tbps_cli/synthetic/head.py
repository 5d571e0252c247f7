"""The head: neck, face, hair and hat, turned with the body.

The face is a patch on an ellipsoid: its rim is projected, and what lies behind the head is clamped
to the silhouette, so one shape serves front, profile and back.
"""

from __future__ import annotations

import math

from tbps_cli.synthetic.body import Axes
from tbps_cli.synthetic.canvas import Canvas, Material, Point, tint
from tbps_cli.synthetic.clothes import Wardrobe
from tbps_cli.synthetic.person import COLOURS, HAIR

_HIGH, _WIDE, _DEEP = 0.068, 0.049, 0.058
_TURNS = [k * math.tau / 20 for k in range(20)]


class _Head:
    """Where the head is and which way it looks."""

    def __init__(self, frame: Axes) -> None:
        self.h = frame.height
        self.x, self.y = frame(frame.axis(0.925))
        self.yaw = frame.pose.yaw + frame.pose.nod
        self.cos, self.sin = math.cos(self.yaw), math.sin(self.yaw)
        self.rx = math.hypot(_WIDE * self.cos, _DEEP * self.sin) * self.h
        self.ry = _HIGH * self.h

    def on(self, azimuth: float, elevation: float) -> tuple[Point, float]:
        """(pixel, nearness) of a direction on the head; azimuth 0 is the nose."""
        side = math.cos(elevation) * math.sin(azimuth + self.yaw)
        near = math.cos(elevation) * math.cos(azimuth + self.yaw)
        up = math.sin(elevation)
        if near < 0:
            length = math.hypot(side, up) or 1.0
            side, up = side / length, up / length
        return (self.x + side * self.rx, self.y - up * self.ry), near


def draw_neck(canvas: Canvas, frame: Axes, wear: Wardrobe) -> None:
    """The neck, before the torso covers its foot."""
    h = frame.height
    canvas.tube([frame(frame.axis(0.90)), frame(frame.axis(0.83))], [0.026 * h, 0.03 * h], wear.skin.darker(0.9))


def draw_head(canvas: Canvas, frame: Axes, wear: Wardrobe) -> None:
    """Hair behind, face, features, hat."""
    person, head = wear.person, _Head(frame)
    hair = wear.skin if person.hair == "bald" else Material(HAIR[person.hair_colour])
    _hair(canvas, head, person.hair, hair)
    _face(canvas, head, wear)
    if person.hair in ("long", "ponytail") and head.cos > 0.2:
        _locks(canvas, head, hair, person.hair)
    if person.hat:
        _hat(canvas, head, person.hat, Material(COLOURS[person.hat_colour or "black"]))


def _hair(canvas: Canvas, head: _Head, style: str, hair: Material) -> None:
    x, y, h = head.x, head.y, head.h
    back = -head.sin
    volume = {"bald": 1.0, "short": 1.08, "long": 1.14, "ponytail": 1.06, "bun": 1.06}[style]
    if style == "long":
        fall = 0.115 * h if head.cos > 0 else 0.15 * h
        half, cx = head.rx * 1.12, x + back * 0.016 * h
        left = [(cx - half * 0.9, y - 0.03 * h), (cx - half * 1.08, y + 0.04 * h), (cx - half * 0.95, y + fall)]
        right = [(cx + half * 0.9, y - 0.03 * h), (cx + half * 1.08, y + 0.04 * h), (cx + half * 0.95, y + fall)]
        canvas.sheath(left, right, hair)
        for share in (-0.4, 0.1, 0.5):
            canvas.fold((cx + half * share, y), (cx + half * share * 1.2, y + fall), 0.007 * h, -36)
    if style == "ponytail" and head.cos < 0.75:
        root = (x + back * head.rx * 0.95, y - 0.012 * h)
        sway = back * 0.035 * h
        path = [root, (root[0] + sway, y + 0.045 * h), (root[0] + sway * 0.7, y + 0.125 * h)]
        canvas.tube(path, [0.018 * h, 0.026 * h, 0.011 * h], hair)
    if style == "bun":
        canvas.ball(x + back * head.rx * 0.8, y - head.ry * 0.85, 0.03 * h, 0.027 * h, hair)
    canvas.ball(x, y - head.ry * (volume - 1), head.rx * volume, head.ry * volume, hair)


def _face(canvas: Canvas, head: _Head, wear: Wardrobe) -> None:
    """The patch of skin, then eyes, brows, nose, mouth, ears and glasses where they show."""
    skin, bald = wear.skin, wear.person.hair == "bald"
    if not bald:
        rim = []
        for turn in _TURNS:
            up = math.sin(turn)
            azimuth, elevation = 1.15 * math.cos(turn), -0.55 + (1.22 if up > 0 else 1.35) * up
            rim.append(head.on(azimuth, max(-1.5, min(1.5, elevation))))
        if max(near for _, near in rim) > 0.15:
            canvas.fill([point for point, _ in rim], skin, 128)
    dark = Material(tint(skin.rgb, 0.35))
    for azimuth, elevation, wide, high, ink in _features(wear):
        (x, y), near = head.on(azimuth, elevation)
        if near > 0.25:
            canvas.disc(x, y, wide * head.h * max(near, 0.5), high * head.h, Material(tint(skin.rgb, ink)), None)
    for side in (-1, 1):
        (x, y), near = head.on(side * 1.5, -0.1)
        if near > -0.2 and wear.person.hair != "long":
            canvas.disc(x, y, 0.009 * head.h, 0.016 * head.h, skin.darker(0.9), None)
    if wear.person.glasses and head.cos > 0.1:
        (x0, y), _ = head.on(-0.75, 0.06)
        (x1, _), _ = head.on(0.75, 0.06)
        canvas.line([(x0, y), (x1, y)], dark, 0.006 * head.h)
        for azimuth in (-0.4, 0.4):
            (x, y), _ = head.on(azimuth, 0.02)
            canvas.disc(x, y, 0.015 * head.h, 0.011 * head.h, Material((46, 46, 52)), None)


def _features(wear: Wardrobe) -> list[tuple[float, float, float, float, float]]:
    """(azimuth, elevation, half width, half height, darkness) of each feature."""
    eyes = [(side * 0.42, 0.02, 0.0075, 0.0055, 0.22) for side in (-1, 1)]
    brows = [(side * 0.42, 0.22, 0.011, 0.0035, 0.45) for side in (-1, 1)]
    lips = 0.62 if wear.person.gender == "man" else 0.5
    return [*eyes, *brows, (0.0, -0.2, 0.007, 0.011, 0.84), (0.0, -0.62, 0.014, 0.005, lips)]


def _locks(canvas: Canvas, head: _Head, hair: Material, style: str) -> None:
    """Hair that frames the face of somebody with long hair."""
    if style != "long":
        return
    for side in (-1, 1):
        x = head.x + side * head.rx * 0.98
        path = [(x - side * head.rx * 0.3, head.y - head.ry * 0.75), (x, head.y), (x, head.y + 0.085 * head.h)]
        canvas.tube(path, [0.012 * head.h, 0.014 * head.h, 0.013 * head.h], hair)


def _hat(canvas: Canvas, head: _Head, kind: str, felt: Material) -> None:
    h, rx, ry, x, y = head.h, head.rx * 1.16, head.ry, head.x, head.y
    brow = y - ry * (0.22 if kind == "beanie" else 0.34)
    dome = [(x + rx * math.cos(t), brow - ry * 1.0 * math.sin(t)) for t in (k * math.pi / 10 for k in range(11))]
    canvas.fill(dome, felt, 112)
    canvas.fill([(x + (px - x) * 0.7, brow + (py - brow) * 0.85) for px, py in dome], felt, 134)
    if kind == "beanie":
        canvas.tube([(x - rx * 0.9, brow), (x + rx * 0.9, brow)], [0.013 * h, 0.013 * h], felt.darker(0.85))
    if kind == "hat":
        canvas.disc(x, brow, rx * 1.75, 0.016 * h, felt, 118)
        canvas.line([(x - rx, brow - 0.014 * h), (x + rx, brow - 0.014 * h)], felt.darker(0.45), 0.012 * h)
    if kind == "cap" and head.cos > -0.5:
        lead = head.sin * rx * 1.05
        half = rx * (0.35 + 0.6 * abs(head.cos))
        canvas.disc(
            x + lead, brow + 0.004 * h, half, 0.013 * h + max(0.0, head.cos) * 0.006 * h, felt.darker(0.75), 120
        )
