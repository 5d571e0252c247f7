"""How somebody stands: a skeleton in three dimensions, turned and projected to the image.

Lengths are in body heights. Axes of the body: X to one side, Y up from the ground, Z forward. `yaw`
turns it about Y: 0 faces the camera, pi shows the back. The camera looks down by `elevation`, and
`taper` makes what is high up (near a raised camera) larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tbps_cli.synthetic.canvas import Point

Joint = tuple[float, float, float]

SIDES = (-1, 1)
_THIGH, _SHIN, _ANKLE = 0.245, 0.235, 0.04
_UPPER_ARM, _FOREARM = 0.165, 0.145


@dataclass(frozen=True)
class Arm:
    """Angles of one arm in radians: forward swing, outward spread, bend of the elbow."""

    swing: float
    spread: float
    bend: float
    inward: float = 0.0
    """How far the bent forearm turns to the other side."""


@dataclass(frozen=True)
class Pose:
    """Angles of a whole body in radians; arms by side."""

    yaw: float
    phase: float
    stride: float
    arms: dict[int, Arm]
    lean: float
    nod: float

    @property
    def view(self) -> str:
        """front, side or back."""
        facing = math.cos(self.yaw)
        return "front" if facing > 0.5 else "back" if facing < -0.5 else "side"


def draw_pose(rng: np.random.Generator, raised: int | None, reach: float) -> Pose:
    """Walking mostly, standing at times; the arm on side `raised` holds something up (bend `reach`)."""
    view = rng.choice(4, p=(0.36, 0.28, 0.18, 0.18))
    yaw = (0.0, math.pi, math.pi / 2, -math.pi / 2)[int(view)] + float(rng.normal(0, 0.26))
    stride = float(rng.uniform(0.2, 0.46)) if rng.random() < 0.8 else float(rng.uniform(0.02, 0.08))
    phase = float(rng.uniform(0, math.tau))
    arms = {}
    for side in SIDES:
        swing = -side * 0.75 * stride * math.sin(phase)
        spread, bend = float(rng.uniform(0.06, 0.2)), float(rng.uniform(0.12, 0.5))
        arms[side] = Arm(0.25, 0.12, reach, 0.35) if side == raised else Arm(swing, spread, bend)
    return Pose(yaw, phase, stride, arms, float(rng.uniform(-0.01, 0.05)), float(rng.normal(0, 0.2)))


@dataclass(frozen=True)
class Leg:
    """Joints of one leg, in body axes."""

    hip: Joint
    knee: Joint
    ankle: Joint
    heel: Joint
    toe: Joint


@dataclass(frozen=True)
class Limb:
    """Joints of one arm, in body axes."""

    shoulder: Joint
    elbow: Joint
    hand: Joint


class Axes:
    """Projects body axes to pixels of the oversampled canvas."""

    def __init__(self, pose: Pose, centre: float, ground: float, height: float, elevation: float) -> None:
        self.pose, self.height = pose, height
        self._centre, self._ground = centre, ground
        self._cos, self._sin = math.cos(pose.yaw), math.sin(pose.yaw)
        self._down, self._level = math.sin(elevation), math.cos(elevation)
        self._taper = 0.35 * elevation
        self.drop = _stance(pose)

    def __call__(self, joint: Joint) -> Point:
        x, y, z = joint
        across, near = x * self._cos + z * self._sin, z * self._cos - x * self._sin
        grown = 1 + self._taper * (y - 0.5)
        up = y * (1 + self._taper * (y - 1) / 2) * self._level - near * self._down
        return self._centre + across * grown * self.height, self._ground - up * self.height

    def near(self, joint: Joint) -> float:
        """How far towards the camera a joint lies, in body heights."""
        return joint[2] * self._cos - joint[0] * self._sin

    def span(self, wide: float, deep: float) -> float:
        """Half the visible width, in pixels, of an upright cylinder with these half axes."""
        return math.hypot(wide * self._cos, deep * self._sin) * self.height

    def axis(self, y: float) -> Joint:
        """The point of the spine at height y: lowered by the stride, leaning forward."""
        return 0.0, y - self.drop, self.pose.lean * max(0.0, y - 0.5) * 2

    def leg(self, side: int) -> Leg:
        """The leg on one side, foot on or near the ground."""
        thigh, bend = _leg_angles(self.pose, side)
        hip = (side * 0.05, 0.52 - self.drop, 0.0)
        knee = (side * 0.054, hip[1] - _THIGH * math.cos(thigh), _THIGH * math.sin(thigh))
        back = thigh - bend
        ankle = (side * 0.05, knee[1] - _SHIN * math.cos(back), knee[2] + _SHIN * math.sin(back))
        pitch = min(0.0, back * 0.9)
        forward, up = math.cos(pitch), math.sin(pitch)
        heel = (ankle[0], ankle[1] - 0.018, ankle[2] - 0.022)
        toe = (side * 0.064, heel[1] + 0.105 * up * 0.8, heel[2] + 0.112 * forward)
        return Leg(hip, knee, ankle, heel, toe)

    def arm(self, side: int, shoulders: float) -> Limb:
        """The arm on one side; `shoulders` is half the distance between the shoulder joints."""
        arm = self.pose.arms[side]
        _, y, z = self.axis(0.79)
        shoulder = (side * shoulders, y, z)
        down = _UPPER_ARM * math.cos(arm.swing)
        elbow = (shoulder[0] + side * _UPPER_ARM * math.sin(arm.spread), y - down, z + _UPPER_ARM * math.sin(arm.swing))
        turn = arm.swing + arm.bend
        inward = side * _FOREARM * (math.sin(arm.spread) * 0.4 - arm.inward * math.sin(min(arm.bend, 1.6)))
        hand = (elbow[0] + inward, elbow[1] - _FOREARM * math.cos(turn), elbow[2] + _FOREARM * math.sin(turn))
        return Limb(shoulder, elbow, hand)


def _leg_angles(pose: Pose, side: int) -> tuple[float, float]:
    """(forward angle of the thigh, bend of the knee): the knee bends while the leg swings forward."""
    return side * pose.stride * math.sin(pose.phase), 0.06 + 1.5 * pose.stride * max(0.0, side * math.cos(pose.phase))


def _stance(pose: Pose) -> float:
    """How far the hips sink so that the longer leg stands on the ground."""
    reach = 0.0
    for side in SIDES:
        thigh, bend = _leg_angles(pose, side)
        reach = max(reach, _THIGH * math.cos(thigh) + _SHIN * math.cos(thigh - bend))
    return 0.52 - _ANKLE - reach
