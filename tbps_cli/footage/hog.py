"""OpenCV's detector of pedestrians by histograms of gradients, which is always there (Dalal and Triggs, CVPR 2005).

It looks for upright persons of 96 pixels in a window of 64 x 128, and only in ever smaller copies of a frame. So frames
of low resolution, where persons are small, are enlarged first. Its boxes are the window, with a margin of 16 of 128
pixels on each side, of which most is taken off.

A person fits many windows a little, a pole or a van only a few. So windows are taken that the detector by itself would
leave out, those over one another are added up, and what counts is the sum; their mean is the box. Against the best
window alone, that raised precision on a drawn street from 0.60 to 0.76 (recall 0.63 and 0.64), on another from 0.65 to
0.75 (recall 0.62 and 0.58). On nine frames of a real clip (OpenCV's vtest.avi) 46 of 48 persons stayed, and 9 of 18
boxes on nobody, all of them on one van.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tbps_cli.footage.boxes import Detection, merged, whole_boxes

Doubles = NDArray[np.float64]

_PIXELS = 2_200_000
"""Frames are brought to about so many pixels, which take half a second."""
_LARGEST = 2.0
_SMALLEST = 0.5
_PERSON = 96
"""Height of a person in the window, in pixels."""
_MARGIN = 14 / 64, 14 / 128
"""Of the window's width on the left and right, of its height above and below: persons who stride are wider."""
_LEAST = -0.2
"""Distance from the SVM's boundary from which on windows are added up."""
_TOGETHER = 0.5
"""Overlap (common area by that of both) of windows that speak for the same person."""
_ENOUGH = 1.3
"""The sum of their distances from `_LEAST`; persons on the real clip have 7 to 50, poles below 2."""
_SURE = 5.0
"""The sum at which a box is about two thirds sure."""
_BEYOND = 16, 16
"""By how much windows may reach beyond the frame, where people come in: 2 % more of them, for 6 % more time."""
_VERSION = 4
"""To be raised when other boxes come out."""


class HogDetector:
    """Finds upright persons of a middle size; misses many who sit, bend or are half hidden."""

    name = "hog"

    def __init__(self) -> None:
        import cv2

        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))
        self.fingerprint = f"hog-{_VERSION}-opencv-{cv2.__version__.partition('.')[0]}"

    def __call__(self, frame: Image.Image) -> list[Detection]:
        import cv2

        scale = enlargement(frame.size)
        size = max(64, round(frame.width * scale)), max(128, round(frame.height * scale))
        pixels = cv2.resize(np.asarray(frame)[..., ::-1], size, interpolation=cv2.INTER_LINEAR)
        found, margin = self._hog.detectMultiScale(
            pixels, hitThreshold=_LEAST, winStride=(8, 8), padding=_BEYOND, scale=1.1, groupThreshold=0
        )
        if len(found) == 0:
            return []
        # Threads add windows in any order, and of those with equal sums the first stays: so the surest comes first.
        order = np.lexsort((*np.asarray(found).T, -np.ravel(margin)))
        left, top, width, height = np.asarray(found, np.float64)[order].T
        corners = np.stack(
            [
                left + _MARGIN[0] * width,
                top + _MARGIN[1] * height,
                left + (1 - _MARGIN[0]) * width,
                top + (1 - _MARGIN[1]) * height,
            ],
            axis=1,
        )
        corners *= np.tile([frame.width / size[0], frame.height / size[1]], 2)
        means, support = _added_up(corners, np.ravel(margin)[order].astype(np.float64) - _LEAST)
        kept = merged(corners, support, overlap=0.3, inside=0.6)
        kept = kept[support[kept] >= _ENOUGH]
        return whole_boxes(means[kept], 1 - np.exp(-support[kept] / _SURE), frame.size)


def _added_up(corners_N4: Doubles, weight_N: Doubles) -> tuple[Doubles, Doubles]:
    """For each window the mean of those that speak for the same person, [N, 4], and the sum of their weights, [N]."""
    means, support = np.empty_like(corners_N4), np.empty_like(weight_N)
    area_N = np.prod(corners_N4[:, 2:] - corners_N4[:, :2], axis=1)
    for place, box in enumerate(corners_N4):
        sides = np.minimum(box[2:], corners_N4[:, 2:]) - np.maximum(box[:2], corners_N4[:, :2])
        common_N = np.prod(sides.clip(min=0), axis=1)
        weight = weight_N * (common_N > _TOGETHER * (area_N + area_N[place] - common_N))
        support[place] = weight.sum()
        means[place] = weight @ corners_N4 / max(support[place], 1e-9)
    return means, support


def enlargement(size: tuple[int, int]) -> float:
    """What a frame of this width and height is scaled by."""
    return min(_LARGEST, max(_SMALLEST, math.sqrt(_PIXELS / max(1, size[0] * size[1]))))


def smallest_person(size: tuple[int, int]) -> int:
    """Height in pixels of the smallest person that is found in frames of this size."""
    return round(_PERSON / enlargement(size))
