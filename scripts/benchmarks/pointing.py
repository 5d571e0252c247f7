"""Do heat maps point at what a word names? `--explain` on drawn people, whose every pixel of a garment is known.

scripts/bench pointing --ckpt RUN [--people N] [--seed N]

Each garment that shows in an image is asked for as "a person with a red coat". A hit is a map whose highest point lies
on the garment; chance is the garment's share of the image. Printed are the maps of garment and colour, which are the
same, and how many images of each garment there were. People are drawn anew: none was trained on.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import tbps_cli
from tbps_cli.models.model import Model
from tbps_cli.synthetic.camera import CAMERAS, Studio
from tbps_cli.synthetic.captions import visible
from tbps_cli.synthetic.masks import Mask, garment_masks
from tbps_cli.synthetic.person import people
from tbps_cli.trust.heat import heat_maps
from tbps_cli.trust.support import Explainer

SLOTS = "upper", "lower", "shoes", "bag", "hat"


@dataclass(frozen=True)
class Shown:
    """A garment in an image: what it is called, and where it is."""

    slot: str
    phrase: str
    image: Image.Image
    mask: Mask


def shown(count: int, seed: int) -> Iterator[Shown]:
    """The garments of people drawn anew, each image by another camera."""
    studio = Studio(seed)
    for number, person in enumerate(people(count, seed, [0])):
        rng = np.random.default_rng((seed, number))
        shot, masks = garment_masks(studio, person, CAMERAS[number % len(CAMERAS)], rng)
        image = Image.open(io.BytesIO(shot.jpeg)).convert("RGB")
        seen = dict(item.split("=", 1) for item in visible(person, shot))
        for slot in SLOTS:
            if slot in masks and slot in seen and f"{slot} colour" in seen:
                yield Shown(slot, f"{seen[f'{slot} colour']} {seen[slot]}", image, masks[slot])


def highest(map_HW: NDArray[np.float32], size: tuple[int, int]) -> tuple[int, int]:
    """(row, column) of the highest point of a map that is laid over an image of (width, height)."""
    large = np.asarray(Image.fromarray(map_HW).resize(size, Image.Resampling.BILINEAR))
    row, column = np.unravel_index(int(large.argmax()), large.shape)
    return int(row), int(column)


def pointing(model: Model, garments: Sequence[Shown]) -> dict[str, tuple[float, float, int]]:
    """Slot -> (share of maps that point at it, its mean share of the image, how many)."""
    vector_SE = model.encode_images([one.image for one in garments])
    found: dict[str, list[tuple[bool, float]]] = {}
    for one in garments:
        explainer = Explainer.of(model, f"a person with a {one.phrase}", vector_SE)
        pixels = torch.from_numpy(model.transform(one.image))
        maps = heat_maps(model.method, pixels, explainer.direction_WE)
        assert maps is not None
        at = highest(maps[-1], one.image.size)
        found.setdefault(one.slot, []).append((bool(one.mask[at]), float(one.mask.mean())))
    means = {slot: np.array(pairs).mean(axis=0).tolist() for slot, pairs in found.items()}
    return {slot: (hit, chance, len(found[slot])) for slot, (hit, chance) in means.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--people", type=int, default=220)
    parser.add_argument("--seed", type=int, default=77)
    options = parser.parse_args(argv)
    found = pointing(tbps_cli.load(options.ckpt), list(shown(options.people, options.seed)))
    print(f"{'garment':<9}{'images':>7}{'on it':>9}{'chance':>9}{'times':>7}")
    for slot, (hit, chance, count) in found.items():
        print(f"{slot:<9}{count:>7}{hit:>8.1%} {chance:>8.1%} {hit / chance:>6.1f}")


if __name__ == "__main__":
    main()
