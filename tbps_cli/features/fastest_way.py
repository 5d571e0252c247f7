"""The fastest way of embedding images here whose vectors agree with float32, tried for a few seconds and remembered.

Tried on images of the gallery itself: the cosine of each image's two vectors, and for sentences of the kind that
people search with the ten best images. Images whose float32 scores differ by less than `TIE` count as equal there.
What was found is remembered for this machine and model, and an index goes on in the way that it was begun in, so that
nobody's results change from one run to the next.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import WeightsError
from tbps_cli.features.encoder import Embeddings, Encoder, ImageWay
from tbps_cli.features.image_ways import asked_way, processor
from tbps_cli.remembered import recall, remember

logger = logging.getLogger("tbps")

COSINE = 0.999
TIE = 1e-3
TOP = 10
SAMPLE = 24
"""Images that are tried."""
WORTH = 200
"""For fewer new images a trial would take longer than it saves."""
FASTER = 1.1
"""How many times as fast a way must be; less is within what times vary by."""
SENTENCES = (
    "a man in a white shirt",
    "a woman in a red coat with a backpack",
    "a person in black trousers and dark shoes",
    "a young woman with long hair in a short skirt",
    "a man in a blue jacket and jeans who carries a bag",
    "somebody in grey shorts with a striped t-shirt",
    "an elderly man with glasses in a brown coat",
    "a child in a yellow dress",
)

Sample = Callable[[int], NDArray[np.float32]]
"""How many images of the gallery -> at most so many, prepared."""


@dataclass(frozen=True)
class Trial:
    """How a way did beside float32."""

    way: ImageWay
    faster: float
    """How many times as fast."""
    cosine: float
    """The smallest, over the images."""
    same_best: bool

    @property
    def holds(self) -> bool:
        return self.cosine >= COSINE and self.same_best and self.faster >= FASTER


def choose_way(
    encoder: Encoder, precision: str, *, begun: Callable[[ImageWay], bool], new: Callable[[], int], sample: Sample
) -> ImageWay:
    """The way in which the images of a gallery are embedded; a line in the log says one that is not float32.

    precision: auto, or what somebody asked for. begun: whether a way has an index of this gallery already; new: how
    many images there are to embed; sample: images of the gallery, asked for when ways are tried.
    Raises UsageError for a precision that the encoder does not have.
    """
    ways = encoder.image_ways()
    there = [way for way in ways if begun(way)]
    if precision != "auto":
        return next((way for way in there if way.precision == precision), None) or asked_way(encoder, precision)
    known = _remembered(encoder, ways)
    if there:
        return known if known in there else there[0]
    if known is not None:
        if known.suffix:
            logger.info("images are embedded in %s, as found out before on this machine", known.name)
        return known
    if len(ways) == 1 or new() < WORTH:
        return ways[0]
    images = sample(SAMPLE)
    if len(images) < SAMPLE:
        return ways[0]
    trials = _tried(encoder, ways, images)
    best = max((trial for trial in trials if trial.holds), key=lambda trial: trial.faster, default=None)
    remember("ways", _machine(encoder), {"suffix": best.way.suffix if best else ""})
    _say(best, trials)
    chosen = best.way if best else ways[0]
    for way in ways:
        if way is not chosen:
            way.release()
    return chosen


def _say(best: Trial | None, trials: list[Trial]) -> None:
    if best is not None:
        logger.info(
            "images are embedded in %s: %.1f times as fast as fp32 here; cosine with it at least %.5f, the same ten "
            "best for %d sentences, on %d of these images (--precision fp32 for the exact way)",
            best.way.name,
            best.faster,
            best.cosine,
            len(SENTENCES),
            SAMPLE,
        )
        return
    for trial in trials:
        logger.info(
            "images are embedded in fp32: %s was %.1f times as fast, cosine %.5f, %s",
            trial.way.name,
            trial.faster,
            trial.cosine,
            "the same ten best" if trial.same_best else "other images among the ten best",
        )


def _tried(encoder: Encoder, ways: list[ImageWay], image_BCHW: NDArray[np.float32]) -> list[Trial]:
    """Every way but the first beside the first, which is exact."""
    exact, *others = ways
    text_QE = encoder.encode_texts(SENTENCES)
    exact.release()  # each goes before the next comes: all at once would be most of what an index ever needs
    exact_BE, seconds = _timed(exact, image_BCHW)
    trials = []
    for before, way in zip(ways, others, strict=False):
        before.release()
        try:
            row_BE, taken = _timed(way, image_BCHW)
        except WeightsError as error:
            logger.info("images are not embedded in %s: %s", way.name, error.message)
            continue
        cosine = float(np.sum(exact_BE * row_BE, axis=1).min())
        trials.append(Trial(way, seconds / taken, cosine, same_best(text_QE @ exact_BE.T, text_QE @ row_BE.T)))
    return trials


def _timed(way: ImageWay, image_BCHW: NDArray[np.float32]) -> tuple[Embeddings, float]:
    """The vectors, and the seconds of the quickest batch: the first one also opens things."""
    rows, seconds = [], []
    for start in range(0, len(image_BCHW), way.batch):
        began = time.perf_counter()
        rows.append(way.embed(image_BCHW[start : start + way.batch]))
        seconds.append((time.perf_counter() - began) / len(rows[-1]))
    return np.concatenate(rows), min(seconds)


def same_best(exact_QG: NDArray[np.float32], other_QG: NDArray[np.float32]) -> bool:
    """Whether two ways have the same best images for every query, but for images of equal exact score."""
    top = min(TOP, exact_QG.shape[1])
    for exact_G, other_G in zip(exact_QG, other_QG, strict=True):
        last = np.sort(exact_G)[-top]
        chosen = exact_G[np.argsort(-other_G, kind="stable")[:top]]
        sure = np.count_nonzero(exact_G > last + TIE)
        if chosen.min() < last - TIE or np.count_nonzero(chosen > last + TIE) < sure:
            return False
    return True


def _remembered(encoder: Encoder, ways: list[ImageWay]) -> ImageWay | None:
    known = recall("ways", _machine(encoder)) if len(ways) > 1 else None
    return next((way for way in ways if known and way.suffix == known.get("suffix")), None)


def _machine(encoder: Encoder) -> list[object]:
    """What the fastest way depends on: the model, the ways that there are, the machine and its libraries."""
    name, flags = processor()
    versions = [_version(library) for library in ("torch", "onnxruntime", "openvino")]
    ways = [way.name for way in encoder.image_ways()]
    return [encoder.fingerprint, ways, platform.node(), name, sorted(flags), os.cpu_count(), versions]


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
