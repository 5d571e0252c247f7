"""What a labelled split taught about scores: how likely a hit is right, and when a person is surely among the hits.

It is fitted once (`trust.fitting`) and kept as `calibration.json` in the run or exported folder, of a checkpoint that
is no folder of ours in the cache. Reading and using it needs neither torch nor scikit-learn: curves are knots.
"""

from __future__ import annotations

import base64
import binascii
import logging
import math
import stat
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, model_validator

from tbps_cli import files
from tbps_cli.errors import WeightsError
from tbps_cli.features.encoder import Encoder
from tbps_cli.retrieval.similarity import product
from tbps_cli.section import Count, Positive, Section
from tbps_cli.trust.conformal import ConformalRule
from tbps_cli.trust.kept import place_of

logger = logging.getLogger("tbps")

MOST_BYTES = 1 << 24
"""A calibration takes a few hundred kilobytes; a larger file is something else."""
FEWEST = 20
"""Images below which a gallery is too small to be compared with that of the calibration."""


class Curve(Section):
    """A rising curve through knots, level beyond its ends."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    @model_validator(mode="after")
    def _rises(self) -> Curve:
        if not self.x or len(self.x) != len(self.y):
            raise ValueError("x and y must have as many numbers, and at least one")
        if not all(map(math.isfinite, (*self.x, *self.y))) or min(self.y) < 0 or max(self.y) > 1:
            raise ValueError("x must be finite, y probabilities")
        if list(self.x) != sorted(self.x) or list(self.y) != sorted(self.y):
            raise ValueError("x and y must rise")
        return self

    def __call__(self, x_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """The curve at each of these places."""
        made: NDArray[np.float64] = np.interp(x_N, self.x, self.y)
        return made


class Likeness(Section):
    """How the gallery of the calibration looked to a few of its captions: what another gallery is compared with."""

    captions: Count
    vectors: str
    """Their embeddings in half precision, base64."""
    scores: tuple[float, ...]
    """Their scores with all images of the calibration, quantiles 0 to 1 in equal steps."""
    images: Count
    scale: Positive
    """A distance that galleries of the same kind rarely have, divided by the root of 1/n + 1/m for n and m images."""

    @cached_property
    def caption_CE(self) -> NDArray[np.float32]:
        """The embeddings, [C, E]. Raises ValueError for text that is none."""
        try:
            flat = np.frombuffer(base64.b64decode(self.vectors, validate=True), "<f2")
        except (binascii.Error, ValueError):
            raise ValueError("vectors is no base64 of half-precision numbers") from None
        if not len(flat) or len(flat) % self.captions or not np.isfinite(flat).all():
            raise ValueError("vectors does not hold an embedding for each caption")
        return flat.reshape(self.captions, -1).astype(np.float32)

    @model_validator(mode="after")
    def _is_whole(self) -> Likeness:
        _ = self.caption_CE
        if len(self.scores) < 2 or list(self.scores) != sorted(self.scores) or not all(map(math.isfinite, self.scores)):
            raise ValueError("scores must be finite and ascending")
        return self

    def distance(self, vector_SE: NDArray[np.generic]) -> float:
        """Kolmogorov's and Smirnov's distance of two distributions of scores: theirs and those of some images."""
        found = np.sort(product(self.caption_CE, np.asarray(vector_SE, np.float32)), axis=None)
        return ks_distance(found, np.array(self.scores))

    def limit(self, images: int) -> float:
        """The distance above which a gallery of so many images is of another kind."""
        return self.scale * math.sqrt(1 / images + 1 / self.images)


def ks_distance(found_N: NDArray[np.floating[Any]], quantile_K: NDArray[np.float64]) -> float:
    """The largest difference between the distribution of sorted numbers and one that is known by even quantiles."""
    expected_N = np.interp(found_N, quantile_K, np.linspace(0, 1, len(quantile_K)), left=0.0, right=1.0)
    step_N = np.arange(len(found_N) + 1) / len(found_N)
    return float(max(np.abs(step_N[1:] - expected_N).max(), np.abs(step_N[:-1] - expected_N).max()))


class Calibration(Section):
    """What `calibration.json` holds."""

    version: Literal[1] = 1
    fingerprint: str
    """Of the embeddings that it was fitted on."""
    data: str
    split: str
    captions: Count
    images: Count
    persons: Count
    temperature: Positive
    """exp(score / temperature) is how much an image looks like the one that is meant, up to a common factor."""
    first: Curve
    """log of an image's share of that sum over all candidates -> probability that it is right, as the first hit."""
    later: Curve
    """The same for hits that are not the first."""
    rule: ConformalRule
    likeness: Likeness

    @property
    def most(self) -> float:
        """The highest probability that a set can be asked for."""
        return 1 - 1 / (self.persons + 1)

    def probabilities(self, share_QK: NDArray[np.float64]) -> NDArray[np.float64]:
        """How likely each hit shows the person, who is somewhere among the candidates, [Q, K].

        share_QK: log of the share of exp(score / temperature) in the sum over all candidates, of the first K hits. No
        hit is said to be likelier than one that scores higher.
        """
        made_QK = self.later(share_QK)
        made_QK[:, :1] = self.first(share_QK[:, :1])
        return np.minimum.accumulate(made_QK, axis=1)

    def shifted(self, vector_SE: NDArray[np.generic]) -> tuple[float, float] | None:
        """(distance, limit) where images look unlike those that it was fitted on; None where they do not."""
        if len(vector_SE) < FEWEST:
            return None
        distance, limit = self.likeness.distance(vector_SE), self.likeness.limit(len(vector_SE))
        return (distance, limit) if distance > limit else None


def read_calibration(path: Path) -> Calibration:
    """A calibration file. Raises WeightsError when it is damaged."""
    hint = "Make it again: tbps eval --calibration"
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise WeightsError(f"{path}: is too large for a calibration.", hint)
        return Calibration.model_validate_json(text)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {files.reason(error)}.", hint) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise WeightsError(f"{path}: is no calibration that this version of tbps wrote ({what}).", hint) from None


def calibration_of(model: Encoder) -> Calibration | None:
    """What is known of a model's scores; None where it was never calibrated, or with other weights or settings.

    A file that has not changed is read once: a server asks at each search.
    """
    path = place_of(model)
    try:
        about = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(about.st_mode):
        return None
    found = _read(path, files.identity_of(about), model.fingerprint)
    if found is None:
        return None
    width = found.likeness.caption_CE.shape[1]
    if width != model.embed:
        said = f"{path}: its embeddings have {width} numbers, those of the model {model.embed}."
        raise WeightsError(said, "Make it again: tbps eval --calibration")
    return found


@lru_cache(maxsize=4)
def _read(path: Path, state: tuple[int, ...], fingerprint: str) -> Calibration | None:
    """A file as it is in this state; None, and a line, where it is of other embeddings."""
    found = read_calibration(path)
    if found.fingerprint != fingerprint:
        logger.warning("%s was made with other weights or settings, so it is not used", path)
        return None
    return found


def write_calibration(model: Encoder, calibration: Calibration) -> Path:
    """Keep a calibration beside its weights, whole or not at all; returns where."""
    path = place_of(model)
    with files.explained(path.parent, WeightsError):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, calibration.model_dump_json() + "\n", WeightsError)
    return path
