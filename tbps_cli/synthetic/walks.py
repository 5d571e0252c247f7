"""Who walks past which camera of the drawn street, when, and along which line.

Lengths are in body heights, times in seconds since the street's clock began. Every camera looks over a plane of its
own: `across` grows to the right, `away` from the camera. A person is seen by one to three cameras, one after the other;
one person in six walks beside another, so that people hide each other. Everything comes from (seed, person).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tbps_cli.synthetic.body import SIDES, Arm
from tbps_cli.synthetic.figure import Stance, draw_stance
from tbps_cli.synthetic.person import Person

Floats = NDArray[np.float64]

NEAREST, FARTHEST = 2.95, 8.0
"""How near to a camera and how far from it people walk."""

_OUTSIDE = 0.45
_TOGETHER = 1 / 6
_NOT_ALIKE = 3
"""Who walks beside somebody is that many persons later: the next ones may look nearly the same."""

_LEG = 0.48


@dataclass(frozen=True)
class Visit:
    """One walk of one person past one camera."""

    person: int
    camera: int
    begins: float
    line: Floats
    """(across, away) of points of the walk, [N, 2]."""
    speed: float
    stance: Stance
    """How the person walks: the stride, and which hand holds what."""

    @property
    def ends(self) -> float:
        """When the person is out of sight."""
        return self.begins + self.length / self.speed

    @property
    def length(self) -> float:
        """Of the whole walk."""
        return float(np.hypot(*np.diff(self.line, axis=0).T).sum())

    def place(self, seconds: float) -> tuple[float, float]:
        """(across, away) at a time."""
        walked = np.concatenate(([0.0], np.hypot(*np.diff(self.line, axis=0).T).cumsum()))
        here = (seconds - self.begins) * self.speed
        return float(np.interp(here, walked, self.line[:, 0])), float(np.interp(here, walked, self.line[:, 1]))

    def standing(self, person: Person, seconds: float) -> Stance:
        """Pose at a time: turned along the walk, as the camera sees it, legs and free arms in step with the ground."""
        (x0, z0), (x1, z1) = self.place(seconds - 0.1), self.place(seconds + 0.1)
        yaw = math.atan2(x1 - x0, z0 - z1) + math.atan2(x1 + x0, z1 + z0)
        pose = self.stance.pose
        step = 4 * _LEG * math.sin(pose.stride)
        phase = pose.phase + math.tau * (seconds - self.begins) * self.speed / step
        arms = {side: self._arm(person, side, phase) for side in SIDES}
        return replace(self.stance, pose=replace(pose, yaw=yaw, phase=phase % math.tau, arms=arms))

    def _arm(self, person: Person, side: int, phase: float) -> Arm:
        """The arm on one side: still when it holds something, else swinging against the leg."""
        arm, stance = self.stance.pose.arms[side], self.stance
        held = stance.holds and side == stance.raised
        if held or (side == stance.bag_side and person.bag in ("handbag", "suitcase")):
            return arm
        return replace(arm, swing=-side * 0.75 * stance.pose.stride * math.sin(phase))


def plan_visits(
    persons: list[Person], *, cameras: int, seconds: float, half_width: float, seed: int
) -> tuple[Visit, ...]:
    """All walks of a street that is filmed for `seconds`.

    half_width: half of what a camera sees at a distance of 1.
    """
    walks: list[list[Visit]] = []
    for number, person in enumerate(persons):
        rng = np.random.default_rng((seed, 2**31 + 2, number))
        if rng.random() < _TOGETHER and number >= _NOT_ALIKE:
            walks.append([_beside(visit, number, person, rng) for visit in walks[number - _NOT_ALIKE]])
        else:
            walks.append(_walks(number, person, cameras, seconds, half_width, rng))
    return tuple(visit for visits in walks for visit in visits)


def _walks(
    number: int, person: Person, cameras: int, seconds: float, half_width: float, rng: np.random.Generator
) -> list[Visit]:
    """The walks of one person past different cameras, as many as the time allows."""
    count = min(cameras, int(rng.choice((1, 2, 3), p=(0.1, 0.45, 0.45))))
    speed = float(rng.uniform(0.62, 0.92))
    visits, clock = [], 0.0
    for camera in rng.permutation(cameras)[:count].tolist():
        visit = Visit(number, camera, clock, _line(half_width, rng), speed, _gait(person, rng))
        visits.append(visit)
        clock = visit.ends + float(rng.uniform(2, 12))
    # the first may have begun before the recording, the last may go on after it
    early, late = -0.4 * (visits[0].ends - visits[0].begins), seconds - visits[-1].begins
    late -= 0.5 * (visits[-1].ends - visits[-1].begins)
    start = float(rng.uniform(early, max(early + 1.0, late)))
    return [replace(visit, begins=visit.begins + start) for visit in visits]


def _beside(other: Visit, number: int, person: Person, rng: np.random.Generator) -> Visit:
    """Somebody who walks along with another person."""
    shift = np.array((float(rng.choice((-1, 1))) * rng.uniform(0.15, 0.4), rng.uniform(0.2, 0.45)))
    return replace(other, person=number, line=other.line + shift, stance=_gait(person, rng))


def _gait(person: Person, rng: np.random.Generator) -> Stance:
    stance = draw_stance(person, rng)
    return replace(stance, pose=replace(stance.pose, stride=float(rng.uniform(0.28, 0.42))))


def _line(half_width: float, rng: np.random.Generator) -> Floats:
    """A bent line from one edge of what the camera sees to an edge: across, towards the camera or away from it."""
    kind = int(rng.choice(3, p=(0.34, 0.36, 0.3)))
    side = float(rng.choice((-1, 1)))
    if kind == 0:
        first, last = rng.uniform(NEAREST + 0.4, FARTHEST, 2).tolist()
        end = -side
    else:
        first, last = float(rng.uniform(6.2, FARTHEST)), float(rng.uniform(NEAREST, 3.6))
        end = side if rng.random() < 0.6 else -side

    def edge(which: float, away: float) -> tuple[float, float]:
        return which * (half_width * away + _OUTSIDE), away

    bend = (float(rng.uniform(-0.9, 0.9)) - 0.5 * (side + end), (first + last) / 2 + float(rng.uniform(-0.7, 0.7)))
    start, middle, stop = np.array(edge(side, first)), np.array(bend), np.array(edge(end, last))
    share = np.linspace(0, 1, 48)[:, None]
    line: Floats = (1 - share) ** 2 * start + 2 * share * (1 - share) * middle + share**2 * stop
    return line[::-1] if kind == 2 else line
