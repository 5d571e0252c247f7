"""TBPS-CLIP's four views of an image for `scripts/bench data --views tbps_clip`: ours, and with torchvision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from support import oracles

from tbps_cli.augment.exact import POOL_TRAIN, SIMCLR_TRAIN
from tbps_cli.augment.transform import IMAGENET_EVAL

FOUR = {"image": POOL_TRAIN, "second": POOL_TRAIN, "contrast_a": SIMCLR_TRAIN, "contrast_b": SIMCLR_TRAIN}
SIZE = (224, 224)


def usual_four(size: tuple[int, int]) -> Callable[[Any], torch.Tensor]:
    """An image -> [4, 3, H, W]: two of six operations, the same drawn anew, and two self-supervised views."""
    t = oracles.torchvision().transforms
    end = t.Normalize(IMAGENET_EVAL["mean"], IMAGENET_EVAL["std"])
    pool = [
        t.ColorJitter(0.1, 0.1, 0.1, 0),
        t.RandomRotation(15),
        t.RandomResizedCrop(size, (0.9, 1.0), antialias=True),
        t.RandomGrayscale(0.1),
        t.RandomHorizontalFlip(0.5),
        t.RandomErasing(scale=(0.10, 0.20), value=0),
    ]

    def two(pixel: Any) -> Any:
        for chosen in torch.randint(len(pool), (2,)).tolist():
            pixel = pool[chosen](pixel)
        return pixel

    blur = t.Lambda(lambda image: _blurred(image, float(torch.empty(1).uniform_(0.1, 2.0))))
    strong = [t.RandomResizedCrop(size, (0.2, 1.0)), t.RandomApply([t.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)]
    strong += [t.RandomGrayscale(0.2), t.RandomApply([blur], 0.5), t.RandomHorizontalFlip(0.5), t.ToTensor(), end]
    pooled = t.Compose([t.Resize(size), t.ToTensor(), t.Lambda(two), end])
    four = pooled, pooled, t.Compose(strong), t.Compose(strong)
    return lambda image: torch.stack([view(image) for view in four])


def _blurred(image: Any, radius: float) -> Any:
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(radius))
