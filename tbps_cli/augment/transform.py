"""The fixed transform: what every image passes before a tower sees it in evaluation and search.

Written with PIL and NumPy, so that a search over an exported folder needs no torch. Training begins with the same
resize and ends with the same numbers; what it draws in between stands in `exact.py` and `batched.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

Resample = Literal["bilinear", "bicubic"]
Triple = tuple[float, float, float]
FILTERS = {"bilinear": "BILINEAR", "bicubic": "BICUBIC"}
"""What PIL calls them."""


class Preparation(TypedDict):
    """The numbers that follow a resize."""

    mean: Triple
    std: Triple
    resample: Resample


CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
CLIP_EVAL: Preparation = {"mean": CLIP_MEAN, "std": CLIP_STD, "resample": "bilinear"}
IMAGENET_EVAL: Preparation = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "resample": "bicubic"}


@dataclass(frozen=True)
class EvalTransform:
    """Resize to exactly `size` (height, width), to [0, 1], normalise. The aspect ratio is not kept."""

    size: tuple[int, int]
    mean: Triple
    std: Triple
    resample: Resample

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """RGB image -> float32 [3, H, W]."""
        return self.normalise(self.pixels(image))

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """RGB image -> uint8 [H, W, 3], the form that a pre-decoded store keeps."""
        return np.asarray(resized(image, self.size, self.resample))

    def normalise(self, pixel_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [H, W, 3] of the right size -> float32 [3, H, W]."""
        values: NDArray[np.float32] = pixel_HWC.astype(np.float32) / np.float32(255)
        values -= np.array(self.mean, np.float32)
        values /= np.array(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def describe(self) -> dict[str, object]:
        """Every number, JSON-able: for fingerprints, run folders and exported metadata."""
        return {
            "size": list(self.size),
            "mean": list(self.mean),
            "std": list(self.std),
            "resample": self.resample,
        }

    @classmethod
    def from_description(cls, words: Mapping[str, object]) -> EvalTransform:
        """The inverse of `describe`. Raises ValueError for anything else."""
        size, mean, std, resample = (words.get(key) for key in ("size", "mean", "std", "resample"))
        if not (isinstance(size, list | tuple) and isinstance(mean, list | tuple) and isinstance(std, list | tuple)):
            raise ValueError("not the description of a transform: size, mean and std must be lists")
        if len(size) != 2 or len(mean) != 3 or len(std) != 3 or resample not in FILTERS:
            raise ValueError(f"not the description of a transform: {dict(words)}")
        height, width = (int(side) for side in size)
        kind: Resample = "bicubic" if resample == "bicubic" else "bilinear"
        return cls((height, width), _triple(mean), _triple(std), kind)


def _triple(values: list[float] | tuple[float, ...]) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def resized(image: Image.Image, size: tuple[int, int], resample: Resample) -> Image.Image:
    """The image at exactly `size` (height, width), antialiased; unchanged when it has that size."""
    height, width = size
    if image.size == (width, height):
        return image
    from PIL.Image import Resampling  # a search with a sentence opens no image

    return image.resize((width, height), Resampling[FILTERS[resample]])
