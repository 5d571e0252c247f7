"""What people carry: bags on the back, the shoulder, in the hand or on wheels, and small things."""

from __future__ import annotations

import math

from tbps_cli.synthetic.body import Axes, Limb
from tbps_cli.synthetic.canvas import Canvas, Material, Point
from tbps_cli.synthetic.clothes import Wardrobe
from tbps_cli.synthetic.person import COLOURS


def backpack(canvas: Canvas, frame: Axes, wear: Wardrobe) -> None:
    """The pack itself, on the back."""
    h, bag = frame.height, Material(COLOURS[wear.person.bag_colour or "black"])
    half = frame.span(0.082, 0.055)
    rows = []
    for y, share in ((0.835, 0.62), (0.81, 0.92), (0.72, 1.0), (0.60, 1.04), (0.565, 0.85)):
        x, top = frame((0.0, y - frame.drop, -0.115))
        rows.append(((x - half * share, top), (x + half * share, top)))
    canvas.sheath([a for a, _ in rows], [b for _, b in rows], bag)
    if math.cos(frame.pose.yaw) < -0.3:
        x, y = frame((0.0, 0.635 - frame.drop, -0.12))
        canvas.disc(x, y, half * 0.66, 0.038 * h, bag.darker(0.8), 116)
        canvas.line([(x - half * 0.8, y - 0.1 * h), (x + half * 0.8, y - 0.1 * h)], bag.darker(0.55), 0.006 * h)


def backpack_straps(canvas: Canvas, frame: Axes, wear: Wardrobe) -> None:
    """What a backpack shows from the front."""
    h, facing = frame.height, math.cos(frame.pose.yaw)
    bag = Material(COLOURS[wear.person.bag_colour or "black"])
    for side in (-1, 1):
        (x0, y0), (x1, y1) = frame(frame.axis(0.845)), frame(frame.axis(0.66))
        turn = math.sin(frame.pose.yaw) * 0.05
        start = (x0 + (side * 0.062 * facing + turn) * h, y0 + 0.012 * h)
        canvas.line([start, (x1 + (side * 0.078 * facing + turn) * h, y1)], bag, 0.02 * h)


def shoulder_bag(canvas: Canvas, frame: Axes, wear: Wardrobe, side: int) -> None:
    """A bag at the hip with its strap across the body."""
    h, bag = frame.height, Material(COLOURS[wear.person.bag_colour or "black"])
    x, y = frame((side * 0.125, 0.52 - frame.drop, 0.02))
    over, spine = frame((-side * 0.055, 0.845 - frame.drop, 0.0)), frame.span(0.1, 0.02)
    across = math.cos(frame.pose.yaw) * -side
    canvas.line([(over[0] + across * 0.2 * spine, over[1]), (x, y - 0.04 * h)], bag.darker(0.75), 0.013 * h)
    half = frame.span(0.05, 0.085)
    left, right = (
        [(x - half, y - 0.045 * h), (x - half, y + 0.06 * h)],
        [(x + half, y - 0.045 * h), (x + half, y + 0.06 * h)],
    )
    canvas.sheath(left, right, bag)
    flap = [(x - half, y - 0.045 * h), (x + half, y - 0.045 * h), (x + half * 0.8, y + 0.012 * h)]
    canvas.fill([*flap, (x - half * 0.8, y + 0.012 * h)], bag.darker(0.82), 122)


def handbag(canvas: Canvas, frame: Axes, wear: Wardrobe, limb: Limb) -> None:
    """A bag with two handles hanging from the hand."""
    h, bag = frame.height, Material(COLOURS[wear.person.bag_colour or "black"])
    x, y = frame(limb.hand)
    half, top = frame.span(0.04, 0.085), y + 0.055 * h
    for side in (-1, 1):
        canvas.line([(x, y), (x + side * half * 0.6, top)], bag.darker(0.7), 0.008 * h)
    left, right = (
        [(x - half * 0.85, top), (x - half, top + 0.1 * h)],
        [(x + half * 0.85, top), (x + half, top + 0.1 * h)],
    )
    canvas.sheath(left, right, bag)
    canvas.line([(x - half * 0.86, top + 0.012 * h), (x + half * 0.86, top + 0.012 * h)], bag.darker(0.6), 0.008 * h)


def suitcase(canvas: Canvas, frame: Axes, wear: Wardrobe, limb: Limb) -> None:
    """A case on wheels pulled behind, its handle in the hand."""
    h, bag = frame.height, Material(COLOURS[wear.person.bag_colour or "black"])
    hand = frame(limb.hand)
    side = 1 if limb.hand[0] > 0 else -1
    x, floor = frame((side * 0.17, 0.02, -0.16))
    half, top = frame.span(0.075, 0.05), floor - 0.27 * h
    for shift in (-0.4, 0.4):
        canvas.line([hand, (x + shift * half, top)], Material((120, 122, 126)), 0.007 * h)
    left, right = [(x - half, top), (x - half, floor - 0.012 * h)], [(x + half, top), (x + half, floor - 0.012 * h)]
    canvas.sheath(left, right, bag)
    for share in (0.3, 0.7):
        y = top + (floor - top) * share
        canvas.line([(x - half, y), (x + half, y)], bag.darker(0.7), 0.006 * h)
    for shift in (-0.7, 0.7):
        canvas.disc(x + shift * half, floor, 0.012 * h, 0.012 * h, Material((30, 30, 32)))


def in_hand(canvas: Canvas, frame: Axes, wear: Wardrobe, limb: Limb) -> None:
    """The phone, bottle, papers or umbrella that the raised hand holds."""
    h, (x, y) = frame.height, frame(limb.hand)
    kind = wear.person.carried
    if kind == "phone":
        _box(canvas, (x, y - 0.015 * h), 0.016 * h, 0.03 * h, Material((24, 24, 30)))
        _box(canvas, (x, y - 0.017 * h), 0.011 * h, 0.021 * h, Material((150, 190, 225)))
    elif kind == "bottle":
        canvas.tube([(x, y + 0.03 * h), (x, y - 0.045 * h)], [0.018 * h, 0.018 * h], Material((90, 176, 214)))
        _box(canvas, (x, y - 0.07 * h), 0.009 * h, 0.01 * h, Material((235, 235, 235)))
    elif kind == "papers":
        sheet = [(x - 0.05 * h, y - 0.05 * h), (x + 0.045 * h, y - 0.06 * h), (x + 0.055 * h, y + 0.05 * h)]
        canvas.fill([*sheet, (x - 0.04 * h, y + 0.06 * h)], Material((242, 242, 238)), 124)
        for k in (-0.03, 0.0, 0.03):
            canvas.line([(x - 0.03 * h, y + k * h), (x + 0.035 * h, y + (k - 0.008) * h)], Material((150, 150, 156)), 2)
    elif kind == "umbrella":
        _umbrella(canvas, frame, (x, y), Material(COLOURS[wear.person.carried_colour or "black"]))


def _box(canvas: Canvas, centre: Point, half: float, high: float, material: Material) -> None:
    x, y = centre
    canvas.fill([(x - half, y - high), (x + half, y - high), (x + half, y + high), (x - half, y + high)], material)


def _umbrella(canvas: Canvas, frame: Axes, hand: Point, cloth: Material) -> None:
    """An open umbrella over the head: ribs, scalloped rim, shaft."""
    h = frame.height
    x, y = (hand[0] + frame(frame.axis(0.9))[0]) / 2, frame(frame.axis(1.0))[1] + 0.01 * h
    canvas.line([hand, (x, y - 0.1 * h)], Material((70, 70, 74)), 0.008 * h)
    radius, rise = 0.25 * h, 0.13 * h
    dome = [(x - radius * math.cos(t), y - rise * math.sin(t)) for t in (k * math.pi / 14 for k in range(15))]
    rim = [(x + radius * (1 - k / 4), y - (0.022 * h if k % 2 else 0.0)) for k in range(9)]
    canvas.fill([*dome, *rim], cloth, 108)
    for low, high, shade in ((-0.95, -0.35, 118), (-0.35, 0.3, 138), (0.3, 0.95, 122)):
        canvas.fill([(x, y - rise), (x + radius * low, y - 0.02 * h), (x + radius * high, y - 0.02 * h)], cloth, shade)
