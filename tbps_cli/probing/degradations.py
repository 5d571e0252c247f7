"""What cameras and detectors do to images, in steps: each a function of the pixels, a seed and nothing else.

A degradation is applied to the image as it lies on disk, before the model's own transform; images wider than `WIDEST`
are brought to that width first, so that a step means the same for every image and a blur of a photograph ends soon.
What is drawn (noise, where something stands in front, how a box errs) comes from the pixels themselves and the seed,
so neither names, order, batches nor threads change it, and the same draws serve all steps of one degradation.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tbps_cli.augment import ops
from tbps_cli.augment.transform import EvalTransform
from tbps_cli.features.encoder import Embeddings, ImageEncoder
from tbps_cli.features.fingerprint import fingerprint

WIDEST = 256
"""Models look at 128 to 224 pixels a row."""
LARGEST_BLUR = 2.0
"""Standard deviation that one pass of `ops.blur` can do; a larger one takes several."""

Draw = np.random.Generator


def _resolution(image: Image.Image, width: float, draw: Draw) -> Image.Image:
    """As many pixels wide, the sides in proportion; narrower images stay as they are."""
    if image.width <= width:
        return image
    height = max(1, round(image.height * width / image.width))
    return image.resize((int(width), height), Image.Resampling.BILINEAR)


def _jpeg(image: Image.Image, quality: float, draw: Draw) -> Image.Image:
    """Written as JPEG of this quality and read again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality), subsampling=2)
    return Image.open(file).convert("RGB")


def _blur(image: Image.Image, percent: float, draw: Draw) -> Image.Image:
    """With a Gaussian whose standard deviation is this share of the width."""
    deviation = image.width * percent / 100
    passes = math.ceil((deviation / LARGEST_BLUR) ** 2)
    pixel_BCHW = _pixels(image)
    for _ in range(passes):  # variances add up
        pixel_BCHW = ops.blur(pixel_BCHW, deviation / math.sqrt(passes))
    return _image(pixel_BCHW)


def _night(image: Image.Image, percent: float, draw: Draw) -> Image.Image:
    """This share of the light: darker, with less colour, and with the noise of a sensor that is turned up."""
    light = percent / 100
    pixel_BCHW = ops.saturation(ops.brightness(_pixels(image), light), 0.3 + 0.7 * light)
    noise_HW3 = draw.standard_normal((image.height, image.width, 3), np.float32)
    deviation = 0.02 + 0.04 * (1 - light)
    return _image(pixel_BCHW + deviation * torch.from_numpy(noise_HW3).permute(2, 0, 1))


def _occlusion(image: Image.Image, percent: float, draw: Draw) -> Image.Image:
    """A grey thing in front that covers this share of the image."""
    share, grey = percent / 100, float(draw.uniform(0.2, 0.8))
    high = min(1.0, math.sqrt(share) * float(draw.uniform(0.8, 1.25)))
    wide = min(1.0, share / high)
    high = share / wide
    top, left = (float(draw.uniform()) * (1 - side) for side in (high, wide))
    rows, columns = image.height, image.width
    box = round(top * rows), round(left * columns), round(high * rows), round(wide * columns)
    return _image(ops.erase_(_pixels(image), *box, grey))


def _crop(image: Image.Image, percent: float, draw: Draw) -> Image.Image:
    """A detector's box: each edge is off by up to this share of the side; beyond the image its border goes on."""
    error_4 = draw.uniform(-1, 1, 4) * percent / 100
    sides = np.array([image.width, image.height] * 2)
    left, top, right, bottom = (round(float(pixels)) for pixels in error_4 * sides)
    right, bottom = image.width + right, image.height + bottom
    outside = max(0, -left, -top, right - image.width, bottom - image.height)
    wide_HWC = np.pad(np.asarray(image), ((outside, outside), (outside, outside), (0, 0)), mode="edge")
    return Image.fromarray(wide_HWC[top + outside : bottom + outside, left + outside : right + outside])


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def _image(pixel_BCHW: Tensor) -> Image.Image:
    pixel_HWC: NDArray[np.uint8] = (pixel_BCHW[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixel_HWC))


@dataclass(frozen=True)
class Degradation:
    """One way in which images get worse, in steps."""

    name: str
    unit: str
    """What a step counts, as it stands below an axis."""
    label: str
    """A step in words, with the number at `{}`."""
    steps: tuple[float, ...]
    """From harmless to severe."""
    apply: Callable[[Image.Image, float, Draw], Image.Image]


DEGRADATIONS = {
    one.name: one
    for one in (
        Degradation("resolution", "pixels wide", "{} pixels wide", (48, 32, 24, 16), _resolution),
        Degradation("jpeg", "quality", "quality {}", (40, 20, 10, 5), _jpeg),
        Degradation("blur", "% of the width", "{} % of the width", (1, 2, 3, 4), _blur),
        Degradation("night", "% of the light", "{} % of the light", (80, 60, 40, 20), _night),
        Degradation("occlusion", "% covered", "{} % covered", (10, 20, 30, 40), _occlusion),
        Degradation("crop", "% of the side", "{} % of the side", (5, 10, 15, 20), _crop),
    )
}
VERSION = 1
"""Raised when a degradation gives other pixels; embeddings in the cache are then made again."""


@dataclass(frozen=True)
class DegradedTransform(EvalTransform):
    """The fixed transform of a model behind one step of a degradation."""

    degradation: str
    step: float
    seed: int

    @classmethod
    def of(cls, transform: EvalTransform, degradation: str, step: float, seed: int) -> DegradedTransform:
        """What `transform` does, to degraded images."""
        return cls(transform.size, transform.mean, transform.std, transform.resample, degradation, step, seed)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """RGB image -> uint8 [H, W, 3] of its degraded form."""
        return super().pixels(degraded(image, self.degradation, self.step, self.seed))

    def describe(self) -> dict[str, object]:
        """Every number: the fingerprint of the embeddings says what was done to the images."""
        worse = {"name": self.degradation, "step": self.step, "seed": self.seed, "version": VERSION}
        return {**super().describe(), "degraded": worse}


def degraded(image: Image.Image, name: str, step: float, seed: int) -> Image.Image:
    """An RGB image after one step of a degradation."""
    if image.width > WIDEST:
        image = _resolution(image, WIDEST, np.random.default_rng(0))
    content = hashlib.blake2b(image.tobytes(), digest_size=8).digest()
    draw = np.random.default_rng((seed, int.from_bytes(content, "little"), list(DEGRADATIONS).index(name)))
    return DEGRADATIONS[name].apply(image, step, draw)


@dataclass(frozen=True)
class DegradedEncoder:
    """An encoder that sees degraded images; its fingerprint says so, hence nothing mixes with the clean ones."""

    encoder: ImageEncoder
    transform: DegradedTransform

    @property
    def path(self) -> Path:
        return self.encoder.path

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.encoder.fingerprint, self.transform)

    @property
    def batch_dependent(self) -> str | None:
        return self.encoder.batch_dependent

    @property
    def max_pixels(self) -> int:
        return self.encoder.max_pixels

    def image_arrays(self, image_BCHW: NDArray[np.float32]) -> Embeddings:
        return self.encoder.image_arrays(image_BCHW)
