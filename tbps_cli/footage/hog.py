"""OpenCV's detector of pedestrians by histograms of gradients, which is always there (Dalal and Triggs, CVPR 2005).

It looks for upright persons of 96 pixels in a window of 64 x 128, and only in ever smaller copies of a frame. So frames
of low resolution, where persons are small, are enlarged first. Its boxes are the window, with a margin of 16 of 128
pixels on each side, which is taken off. Boxes over one another, and those inside others, are merged.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from tbps_cli.footage.boxes import Detection, merged, whole_boxes

_PIXELS = 2_200_000
"""Frames are brought to about so many pixels, which take half a second."""
_LARGEST = 2.0
_SMALLEST = 0.5
_PERSON = 96
"""Height of a person in the window, in pixels."""
_MARGIN = 16 / 64, 16 / 128
"""Of the window's width on the left and right, of its height above and below."""
_LEAST = 0.3
"""Distance from the SVM's boundary; at 0 poles and windows count as persons too."""
_VERSION = 1
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
            pixels, hitThreshold=_LEAST, winStride=(8, 8), scale=1.1, groupThreshold=0
        )
        if len(found) == 0:
            return []
        left, top, width, height = np.asarray(found, np.float64).T
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
        score = 1 - np.exp(-np.ravel(margin).astype(np.float64))
        kept = merged(corners, score, overlap=0.3, inside=0.6)
        return whole_boxes(corners[kept], score[kept], frame.size)


def enlargement(size: tuple[int, int]) -> float:
    """What a frame of this width and height is scaled by."""
    return min(_LARGEST, max(_SMALLEST, math.sqrt(_PIXELS / max(1, size[0] * size[1]))))


def smallest_person(size: tuple[int, int]) -> int:
    """Height in pixels of the smallest person that is found in frames of this size."""
    return round(_PERSON / enlargement(size))
