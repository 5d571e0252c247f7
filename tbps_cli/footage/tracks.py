"""Who is the same person from frame to frame, through norfair (its filters, assignment and lives of tracks).

The maintained fork `norfair-enough` is used: it needs numpy and scipy alone (0.7 MB). `trackers` of Roboflow was tried
too: it brings matplotlib and a second OpenCV (150 MB more), and joins boxes by their overlap, of which nothing is left
at one frame a second, where a walking person has gone on by twice their width. So what is measured here is how far a
person is from where the track would be by now, in heights of a person, together with the colours from top to bottom.

The same detections give the same tracks. Somebody who was seen once is a track of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from norfair.distances import ScalarDistance
from norfair.tracker import Detection as Point
from norfair.tracker import TrackedObject, Tracker
from numpy.typing import NDArray
from PIL import Image

from tbps_cli.footage.boxes import Box, Detection

_PATIENCE = 1.0
"""Seconds that somebody may be unseen; three times as long where they were seen before."""
_SPEED = 1.2
"""Heights of a person in a second: somebody in a hurry."""
_SLACK = 0.35
"""The same for what a box is off by, and for how wrong a velocity is."""
_FARTHEST = 2.5
_GROWTH = 0.45
"""Largest difference of the logarithms of two heights."""
_COLOURS = 0.3
"""Largest mean difference of colours, of 1; that of one person is below 0.1 mostly, of two above 0.15."""
_GRID = 3, 8
"""Columns and rows of colours."""


class _Look(NamedTuple):
    """What a box showed and when."""

    place: int
    seconds: float
    colours: NDArray[np.float32]


class Tracks:
    """Gives every detection of one video the name of its track, frame after frame in order."""

    def __init__(self, interval: float) -> None:
        """interval: usual seconds from one frame to the next."""
        self._period = max(1, round(_PATIENCE / interval))
        self._tracker = Tracker("euclidean", 1.0, hit_counter_max=self._period, initialization_delay=0)
        self._tracker.distance_function = ScalarDistance(_apart)  # as an argument it brings a warning that it is slow

    def update(self, seconds: float, image: Image.Image, found: Sequence[Detection]) -> list[str]:
        """The track of each detection in this frame."""
        points = [
            Point(_corners(box), data=_Look(place, seconds, _colours(image, box)))
            for place, (box, _) in enumerate(found)
        ]
        self._tracker.update(points or None, period=self._period)
        names = {
            obj.last_detection.data.place: str(obj.id)
            for obj in self._tracker.tracked_objects
            if obj.last_detection.data.seconds == seconds
        }
        return [names[place] for place in range(len(found))]


def _apart(point: Point, obj: TrackedObject) -> float:
    """How little a detection looks like the next of a track: 0 the same, from 1 on never."""
    last: _Look = obj.last_detection.data
    new: _Look = point.data
    expected, box = obj.estimate, point.points
    height, before = box[1, 1] - box[0, 1], max(1.0, expected[1, 1] - expected[0, 1])
    growth = abs(math.log(height / before))
    distance = float(np.linalg.norm(box.mean(axis=0) - expected.mean(axis=0))) / (0.5 * (height + before))
    reach = min(_FARTHEST, _SLACK + _SPEED * (new.seconds - last.seconds))
    colours = float(np.abs(new.colours - last.colours).mean())
    if distance > reach or growth > _GROWTH or colours > _COLOURS:
        return math.inf
    return 0.5 * distance / reach + 0.5 * colours / _COLOURS


def _corners(box: Box) -> NDArray[np.float64]:
    left, top, width, height = box
    return np.array([[left, top], [left + width, top + height]], np.float64)


def _colours(image: Image.Image, box: Box) -> NDArray[np.float32]:
    """Mean colours of the middle of a box, in a small grid: [rows, columns, 3] between 0 and 1."""
    left, top, width, height = box
    middle = (left + 0.2 * width, top, left + 0.8 * width, top + height)
    small = image.resize(_GRID, Image.Resampling.BOX, box=middle)
    return np.asarray(small).astype(np.float32) / np.float32(255)
