"""Who is the same person from frame to frame, through norfair (its filters, assignment and lives of tracks).

The maintained fork `norfair-enough` is used: it needs numpy and scipy alone (0.7 MB). `trackers` of Roboflow brings
matplotlib and a second OpenCV (150 MB more), and joins boxes by their overlap, of which nothing is left at one frame a
second, where a walking person has gone on by twice their width. So two things are measured here: how far a person is
from where the track would be by now, in heights of a person, and how unlike the colours are from top to bottom.

On the drawn street (57 visits), with the true boxes at intervals of 1/8, 1/2, 1 and 2 s, the share of a track that is
one person is 98, 97, 98 and 99 %, the share of a person that is in one track 96, 96, 94 and 93 %. With mean colours in
a grid instead of histograms both were 72 % at 1 s and 46 % and 63 % at 2 s. With place counting as much as colours, or
with wider limits for them, it was worse at long intervals; the filter's noise makes less than 1 %. Levels of equal
width did as well there, but on a real clip people in dark coats took over each other's tracks.

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
"""Seconds that a track goes on while nobody is seen ..."""
_GAP = 0.5
"""... and how long it can be taken up after two intervals without anybody."""
_SPEED, _SLACK, _FARTHEST = 1.2, 0.35, 2.5
"""How far somebody can be from where the track would be: heights in a second (in a hurry), at once, and at most."""
_GROWTH = 0.45
"""Largest difference of the logarithms of two heights."""
_UNLIKE = 0.55
"""Largest share of colours that are not the other's; of one person mostly below 0.4, of two above."""
_PLACE = 0.3
"""How much the place counts; the rest are the colours."""
_BANDS, _LEVELS = 6, 6
"""Bands of a person from top to bottom, and levels of each of red, green and blue."""
_LEVEL = np.minimum(np.sqrt(np.arange(256) / 255) * _LEVELS, _LEVELS - 1).astype(np.int64)
"""The level of each value: narrower ones for dark colours, which most coats have."""


class _Look(NamedTuple):
    """What a box showed and when."""

    place: int
    seconds: float
    colours: NDArray[np.float64]
    """Shares of the colours in each band: [bands, colours]."""


class Tracks:
    """Gives every detection of one video the name of its track, frame after frame in order."""

    def __init__(self, interval: float) -> None:
        """interval: usual seconds from one frame to the next."""
        self._interval = interval
        self._period = max(1, round(_PATIENCE / interval))
        self._tracker = Tracker("euclidean", 1.0, hit_counter_max=self._period, initialization_delay=0)
        self._tracker.distance_function = ScalarDistance(self._apart)  # as an argument it brings a warning: it is slow

    def update(self, seconds: float, image: Image.Image, found: Sequence[Detection]) -> list[str]:
        """The track of each detection in this frame."""
        pixels = np.asarray(image)
        points = [
            Point(_corners(box), data=_Look(place, seconds, _colours(pixels, box)))
            for place, (box, _) in enumerate(found)
        ]
        self._tracker.update(points or None, period=self._period)
        names = {
            obj.last_detection.data.place: str(obj.id)
            for obj in self._tracker.tracked_objects
            if obj.last_detection.data.seconds == seconds
        }
        return [names[place] for place in range(len(found))]

    def _apart(self, point: Point, obj: TrackedObject) -> float:
        """How little a detection looks like the next of a track: 0 the same, from 1 on never."""
        last: _Look = obj.last_detection.data
        new: _Look = point.data
        gap = new.seconds - last.seconds
        expected, box = obj.estimate, point.points
        height, before = box[1, 1] - box[0, 1], max(1.0, expected[1, 1] - expected[0, 1])
        distance = float(np.linalg.norm(box.mean(axis=0) - expected.mean(axis=0))) / (0.5 * (height + before))
        reach = min(_FARTHEST, _SLACK + _SPEED * gap)
        growth = abs(math.log(height / before))
        if gap > _GAP + 2 * self._interval or distance > reach or growth > _GROWTH:
            return math.inf
        unlike = 1 - float(np.minimum(new.colours, last.colours).sum(axis=1).mean())
        if unlike > _UNLIKE:
            return math.inf
        return _PLACE * distance / reach + (1 - _PLACE) * unlike / _UNLIKE


def _corners(box: Box) -> NDArray[np.float64]:
    left, top, width, height = box
    return np.array([[left, top], [left + width, top + height]], np.float64)


def _colours(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.float64]:
    """How often each colour stands in each band of the middle half of a box: [bands, colours], each row sums to 1."""
    left, top, width, height = box
    start = left + width // 4
    middle = _LEVEL[pixels[top : top + height, start : start + max(1, width // 2)]]
    colour = (middle[..., 0] * _LEVELS + middle[..., 1]) * _LEVELS + middle[..., 2]
    bands = (band.ravel() for band in np.array_split(colour, _BANDS))
    counts = [np.bincount(band, minlength=_LEVELS**3) / max(1, band.size) for band in bands]
    return np.stack(counts)
