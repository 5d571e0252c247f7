"""Boxes around persons: x, y, width, height in pixels of the frame, and what is done with any detector's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""x, y of the upper left corner, width, height."""

Floats = NDArray[np.float32] | NDArray[np.float64]

SMALLEST = 8
"""Pixels; a crop with a smaller side is no image that can be searched."""


class Detection(NamedTuple):
    """A person that a detector found, and how sure it is, between 0 and 1."""

    box: Box
    score: float


def whole_boxes(corners_N4: Floats, scores_N: Floats, size: tuple[int, int]) -> list[Detection]:
    """Detections from left, top, right, bottom, cut to the frame, the surest first; what is too small or NaN goes.

    size: width and height of the frame.
    """
    sound = np.isfinite(corners_N4).all(axis=1) & np.isfinite(scores_N)
    corners = np.clip(np.rint(corners_N4[sound]), 0, [*size, *size]).astype(np.int64)
    scores = scores_N[sound]
    found = []
    for place in np.argsort(-scores, kind="stable"):
        left, top, right, bottom = (int(value) for value in corners[place])
        if right - left >= SMALLEST and bottom - top >= SMALLEST:
            found.append(Detection((left, top, right - left, bottom - top), round(float(scores[place]), 4)))
    return found


def merged(corners_N4: Floats, scores_N: Floats, *, overlap: float, inside: float = 1.0) -> NDArray[np.int64]:
    """The places of the boxes that stay, the surest first, each instead of those that show the same person.

    overlap: common area by the area of both together; inside: common area by that of the smaller one.
    """
    left, top, right, bottom = corners_N4.T.astype(np.float64)
    area = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    rest = np.argsort(-scores_N, kind="stable")
    kept = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        width = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest])
        height = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest])
        common = np.maximum(width, 0) * np.maximum(height, 0)
        both = np.maximum(area[best] + area[rest] - common, 1e-9)
        smaller = np.maximum(np.minimum(area[best], area[rest]), 1e-9)
        rest = rest[(common / both <= overlap) & (common / smaller <= inside)]
    return np.array(kept, np.int64)
