"""The check before an export is kept: the graphs and the original on real images and captions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

    from tbps_cli.exporting.fused import FusedAgreement
    from tbps_cli.exporting.int8_rules import ScoresApart

TOLERANCE = {"fp32": 1e-4, "int8": 0.1}
"""Largest allowed |difference| of one entry of a unit row. int8 changes the weights themselves."""


class TextImageEncoder(Protocol):
    """What both the original and the export can do."""

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]: ...
    def encode_images(self, images: Sequence[str | Path | Image.Image]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Examples:
    """What an export is compared on."""

    images: Sequence[str | Path | Image.Image]
    captions: Sequence[str]
    source: str = "given images"
    """Where they come from, for the report."""


@dataclass(frozen=True)
class Agreement:
    """Differences over the tried images and captions, and whether they are small enough."""

    images: int
    captions: int
    image_difference: float
    """Largest |difference| of an entry."""
    text_difference: float
    image_angle: float
    """Largest 1 - cosine."""
    text_angle: float
    tolerance: float
    source: str
    """Where the images came from, for the message."""
    speed: dict[str, float] | None = None
    """Of int8: how many times as fast as fp32 it is, for images and captions."""
    scores: ScoresApart | None = None
    """Of int8: what it costs in R@1 and mAP, where the data set is at hand."""
    fused: FusedAgreement | None = None
    """Of a graph that takes images as they are."""

    @property
    def holds(self) -> bool:
        return max(self.image_difference, self.text_difference) <= self.tolerance

    def document(self) -> dict[str, Any]:
        """A JSON-able copy."""
        scores = {} if self.scores is None else {"scores": self.scores.document()}
        speed = {} if self.speed is None else {"speed": self.speed}
        fused = {} if self.fused is None else {"fused": self.fused.document()}
        plain = {name: value for name, value in vars(self).items() if name not in ("scores", "speed", "fused")}
        return {**plain, "holds": self.holds, **speed, **scores, **fused}


def compare(original: TextImageEncoder, export: TextImageEncoder, examples: Examples, *, tolerance: float) -> Agreement:
    """Run both on the same images and captions. A NaN counts as an infinite difference."""
    images, captions = examples.images, examples.captions
    image_difference, image_angle = _difference(original.encode_images(images), export.encode_images(images))
    text_difference, text_angle = _difference(original.encode_texts(captions), export.encode_texts(captions))
    return Agreement(
        images=len(images),
        captions=len(captions),
        image_difference=image_difference,
        text_difference=text_difference,
        image_angle=image_angle,
        text_angle=text_angle,
        tolerance=tolerance,
        source=examples.source,
    )


def seconds(encoder: TextImageEncoder, examples: Examples, rounds: int = 3) -> tuple[float, float]:
    """Processor time for the images and for the captions: the least of some rounds after one to warm up."""

    def least(work: Callable[[], object]) -> float:
        times = []
        for _ in range(rounds + 1):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return max(min(times[1:]), 1e-9)

    return least(lambda: encoder.encode_images(examples.images)), least(lambda: encoder.encode_texts(examples.captions))


def _difference(ours_BE: NDArray[np.float32], theirs_BE: NDArray[np.float32]) -> tuple[float, float]:
    if ours_BE.shape != theirs_BE.shape or not np.isfinite(theirs_BE).all():
        return float("inf"), float("inf")
    angle = 1 - (ours_BE.astype(np.float64) * theirs_BE).sum(1)
    return float(np.abs(ours_BE - theirs_BE).max()), float(max(angle.max(), 0.0))
