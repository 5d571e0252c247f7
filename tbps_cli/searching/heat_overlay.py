"""A heat map as a small transparent image that is laid over another: from clear over yellow to red."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tbps_cli.types import Grid

WIDTH = 48
"""Pixels of the overlay; browsers enlarge it smoothly."""
STRONGEST = 190
"""Opacity where the map is highest, of 255."""


def overlay(grid: Grid, size: tuple[int, int]) -> bytes:
    """A PNG of the proportions of an image of (width, height), with the map over the whole of it.

    grid: rows of cells from 0 to 1.
    """
    shape = WIDTH, max(1, min(8 * WIDTH, round(WIDTH * size[1] / max(size[0], 1))))
    cells = Image.fromarray(np.array(grid, np.float32)).resize(shape, Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(cells), 0, 1)
    green = 255 * np.clip(1.6 - 1.6 * heat, 0, 1)
    layers = [np.full_like(heat, 255), green, np.zeros_like(heat), STRONGEST * heat]
    file = io.BytesIO()
    Image.fromarray(np.stack(layers, axis=2).astype(np.uint8)).quantize(64).save(file, "PNG", optimize=True)
    return file.getvalue()
