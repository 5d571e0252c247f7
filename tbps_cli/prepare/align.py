"""Whether one image is a part of another, saved again: the best box is searched for, and what differs there measured.

Hashes alone say only that two images are alike, as persons in the same street are. Here the box is refined from where
two hashes agreed by Lucas and Kanade's method (four numbers: its sides), and the share of the images' variance that
remains as a difference is small for copies alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, as shares of width and height."""
Pixels = NDArray[np.float32]
SIZES = ((32, 16), (64, 32))
"""Heights and widths at which images are laid over each other: from afar first, where a box finds its place from
further away."""
_STEPS = (8, 12)
"""How often the box moves at each size."""
_LONGEST = 0.04
"""How far an edge may move in a step."""
_LEAST = 0.6
"""The least share of width and height that a box may have."""
_NOISE = 25.0
"""Variance added to that of the images: flat ones differ by rounding alone."""
_HOPELESS = 0.8
"""From afar, images that are no copies still differ by more than this in the end."""


def difference(image: Image.Image, other: Image.Image, box: Box) -> float:
    """What differs between `other` and the best box of `image`, as a share of their variance; the worst quarter counts.

    box: where to begin. 0 for equal images, about 1 for unrelated ones.
    """
    edges, best = np.array(box, dtype=np.float64), math.inf
    for size, steps in zip(SIZES, _STEPS, strict=True):
        if best < math.inf and best > _HOPELESS:
            return best
        edges, best = _refined(image, _pixels(other, (0.0, 0.0, 1.0, 1.0), size), edges, steps)
    return best


def _refined(
    image: Image.Image, target: Pixels, edges: NDArray[np.float64], steps: int
) -> tuple[NDArray[np.float64], float]:
    """(the edges after some steps, what differs there): the best of those that were passed."""
    best, kept = math.inf, edges
    for _ in range(steps):
        edges = _inside(edges)
        found = _pixels(image, edges, target.shape[:2])
        differs = _worst_quarter(found, target)
        if differs < best:
            best, kept = differs, edges
        step = _step(found, target, edges)
        edges = edges + step
        if np.abs(step).max() < 1e-3:
            break
    return kept, best


def _pixels(image: Image.Image, edges: NDArray[np.float64] | Box, size: tuple[int, int]) -> Pixels:
    """[H, W, 3] of a box of an image."""
    width, height = image.size
    left, top, right, bottom = (float(edge) for edge in edges)
    box = (left * width, top * height, right * width, bottom * height)
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, box=box), dtype=np.float32)


def _step(found: Pixels, target: Pixels, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """How the edges must move, to first order, for `found` to become `target`."""
    down, across = np.gradient(found, axis=(0, 1))
    height, width = found.shape[:2]
    place_x = ((np.arange(width) + 0.5) / width)[None, :, None]
    place_y = ((np.arange(height) + 0.5) / height)[:, None, None]
    by_x = across * width / (edges[2] - edges[0])
    by_y = down * height / (edges[3] - edges[1])
    slope = np.stack([by_x * (1 - place_x), by_y * (1 - place_y), by_x * place_x, by_y * place_y]).reshape(4, -1)
    missing = (target - found).ravel()
    normal = slope @ slope.T
    normal += np.eye(4) * (1e-3 * np.trace(normal) / 4 + 1e-6)
    return np.clip(np.linalg.solve(normal, slope @ missing), -_LONGEST, _LONGEST)


def _inside(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.clip(edges[:2], 0.0, 1.0 - _LEAST)
    return np.concatenate([low, np.clip(edges[2:], low + _LEAST, 1.0)])


def _worst_quarter(found: Pixels, target: Pixels) -> float:
    """The share of the variance that differs, in the worst of 2 x 2 quarters and over the whole."""
    height, width = found.shape[:2]
    parts = [(found, target)]
    for top in (0, height // 2):
        for left in (0, width // 2):
            here = slice(top, top + height // 2), slice(left, left + width // 2)
            parts.append((found[here], target[here]))
    return max(_share(*part) for part in parts)


def _share(found: Pixels, target: Pixels) -> float:
    apart = float(np.mean((found - target) ** 2))
    return apart / (0.5 * float(found.var((0, 1)).mean() + target.var((0, 1)).mean()) + _NOISE)
