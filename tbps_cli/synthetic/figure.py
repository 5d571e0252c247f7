"""One person as an image with a transparent ground: the parts in the order of their depth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tbps_cli.synthetic import things
from tbps_cli.synthetic.body import SIDES, Arm, Axes, Pose, draw_pose
from tbps_cli.synthetic.canvas import OVERSAMPLING, Canvas
from tbps_cli.synthetic.clothes import Wardrobe, draw_arm, draw_leg, draw_skirt, draw_torso
from tbps_cli.synthetic.head import draw_head, draw_neck
from tbps_cli.synthetic.person import Person

_REACH = {"phone": 1.9, "bottle": 1.5, "papers": 1.45, "umbrella": 2.2}


@dataclass(frozen=True)
class Stance:
    """How a person appears in one image: pose, which hand holds what, what is shown."""

    pose: Pose
    bag_side: int
    holds: bool
    """Whether the carried thing is in the (raised) other hand in this image."""

    @property
    def raised(self) -> int:
        """The side of the hand that holds the carried thing."""
        return -self.bag_side


def draw_stance(person: Person, rng: np.random.Generator) -> Stance:
    """A pose for one image; carried things are shown in seven images of ten."""
    bag_side = int(rng.choice((-1, 1)))
    holds = person.carried is not None and bool(rng.random() < 0.7)
    pose = draw_pose(rng, -bag_side if holds else None, _REACH.get(person.carried or "", 0.3))
    if person.bag in ("handbag", "suitcase"):
        swing = -0.3 if person.bag == "suitcase" else 0.0
        pose.arms[bag_side] = Arm(swing, 0.16, 0.05)
    return Stance(pose, bag_side, holds)


def draw_figure(
    person: Person,
    stance: Stance,
    size: tuple[int, int],
    foot: tuple[float, float],
    height: float,
    elevation: float,
    light: float,
    rng: np.random.Generator,
) -> Image.Image:
    """Paint one person, RGBA.

    size: (width, height) of the image in pixels; foot: where the person stands, pixels;
    height: of the body in pixels; elevation: how far the camera looks down, radians;
    light: -1 from the left to 1 from the right.
    """
    canvas = Canvas(*size, light)
    grow = OVERSAMPLING
    frame = Axes(stance.pose, foot[0] * grow, foot[1] * grow, height * grow, elevation)
    wear = Wardrobe(person, canvas, height * grow)
    _Painter(canvas, frame, wear, stance, rng).paint()
    return canvas.finish(int(rng.integers(97 * 97)))


class _Painter:
    """The parts of a figure, from the farthest to the nearest."""

    def __init__(self, canvas: Canvas, frame: Axes, wear: Wardrobe, stance: Stance, rng: np.random.Generator) -> None:
        self.canvas, self.frame, self.wear, self.stance, self.rng = canvas, frame, wear, stance, rng
        self.limbs = {side: frame.arm(side, wear.shoulders) for side in SIDES}
        self.facing = math.cos(frame.pose.yaw)

    def paint(self) -> None:
        canvas, frame, wear = self.canvas, self.frame, self.wear
        far, near = sorted(SIDES, key=lambda side: frame.near(self.limbs[side].shoulder))
        split = frame.near(self.limbs[near].shoulder) > 0.045  # turned enough for one arm to lie behind
        if wear.person.bag == "backpack" and self.facing > 0:
            things.backpack(canvas, frame, wear)
        if split:
            self._arm(far)
        if wear.person.bag == "suitcase" and self.facing > 0:
            things.suitcase(canvas, frame, wear, self.limbs[self.stance.bag_side])
        for side in sorted(SIDES, key=lambda s: frame.near(frame.leg(s).ankle)):
            draw_leg(canvas, frame, frame.leg(side), wear)
        if wear.person.lower:
            draw_skirt(canvas, frame, wear)
        if self.facing > 0:
            self._neck_and_torso()
            draw_head(canvas, frame, wear)
        else:
            self._neck_and_torso()
        self._back()
        if self.facing <= 0:
            draw_head(canvas, frame, wear)
        for side in (near,) if split else (far, near):
            self._arm(side)

    def _neck_and_torso(self) -> None:
        draw_neck(self.canvas, self.frame, self.wear)
        draw_torso(self.canvas, self.frame, self.wear, self.rng)

    def _back(self) -> None:
        """Bags that lie over the clothes."""
        canvas, frame, wear, side = self.canvas, self.frame, self.wear, self.stance.bag_side
        if wear.person.bag == "backpack":
            (things.backpack_straps if self.facing > 0.3 else things.backpack)(canvas, frame, wear)
        if wear.person.bag == "shoulder bag":
            things.shoulder_bag(canvas, frame, wear, side)
        if wear.person.bag == "suitcase" and self.facing <= 0:
            things.suitcase(canvas, frame, wear, self.limbs[side])

    def _arm(self, side: int) -> None:
        limb, person = self.limbs[side], self.wear.person
        holding = self.stance.holds and side == self.stance.raised
        behind = holding and self.frame.near(limb.hand) < self.frame.near(limb.elbow)
        if behind:
            things.in_hand(self.canvas, self.frame, self.wear, limb)
        if person.bag == "handbag" and side == self.stance.bag_side:
            things.handbag(self.canvas, self.frame, self.wear, limb)
        draw_arm(self.canvas, self.frame, limb, self.wear)
        if holding and not behind:
            things.in_hand(self.canvas, self.frame, self.wear, limb)
