"""Persons of two colours on small images: what a tiny model from scratch learns in seconds.

A person is a shirt colour over a trousers colour; persons of val and test wear colours that training has seen
in other pairs. In CUHK-PEDES' layout, under the name of the synthetic set.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 200),
    "yellow": (220, 200, 50),
    "white": (235, 235, 235),
    "black": (25, 25, 25),
    "orange": (235, 130, 30),
    "purple": (130, 50, 150),
}
SKIN = (220, 180, 150)
SIZE = (32, 16)
"""Height and width of an image."""
PERSONS = (40, 12, 12)
"""To train on, in val, in test."""


def draw(top: str, low: str, rng: np.random.Generator) -> Image.Image:
    """One image: a head, a shirt and trousers before a plain wall, in changing light."""
    pixels = np.empty((*SIZE, 3))
    pixels[:] = rng.integers(60, 200, 3)
    left = rng.integers(2, 5)
    pixels[1:6, left + 3 : left + 6] = SKIN
    pixels[6:18, left : left + 9] = COLOURS[top]
    pixels[18:30, left + 1 : left + 8] = COLOURS[low]
    noisy = pixels * rng.uniform(0.8, 1.1) + rng.normal(0, 12, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write_colours(root: Path, persons: tuple[int, int, int] = PERSONS, images: int = 4) -> Path:
    """The set below root/synthetic, each image with two captions. Returns the root."""
    rng = np.random.default_rng(0)
    pairs = rng.permutation(list(itertools.product(COLOURS, COLOURS))).tolist()
    splits = [name for name, count in zip(("train", "val", "test"), persons, strict=True) for _ in range(count)]
    folder, records = root / "synthetic", []
    (folder / "imgs" / "cam_a").mkdir(parents=True)
    for person, ((top, low), split) in enumerate(zip(pairs, splits, strict=False), start=1):
        captions = [
            f"A person in a {top} shirt and {low} trousers.",
            f"Someone wears {low} trousers and a {top} shirt.",
        ]
        for number in range(images):
            path = f"cam_a/{person:03}_{number}.png"
            draw(top, low, rng).save(folder / "imgs" / path)
            records.append({"split": split, "id": person, "file_path": path, "captions": captions})
    (folder / "reid_raw.json").write_text(json.dumps(records))
    return root
