"""A reader of clothes' colours on drawn pedestrians, and what people do to its score without making it better.

The reader has no network: an image is how much of each colour its upper and lower half show, a caption the colours
that it names there. So every trick can be played on it in a second, and what it gains is measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from support.encoder import FakeEncoder

from tbps_cli.augment.transform import EvalTransform
from tbps_cli.data.images import read_image
from tbps_cli.data.types import Split
from tbps_cli.features.encoder import Embeddings
from tbps_cli.features.fingerprint import fingerprint
from tbps_cli.retrieval.independence import ScoreFunction
from tbps_cli.retrieval.similarity import Array
from tbps_cli.synthetic.person import COLOURS
from tbps_cli.text.bpe import Bpe

NAMES = list(COLOURS)
PALETTE = np.array([COLOURS[name] for name in NAMES], np.float32) / 255
UPPER = {"t-shirt", "tee", "shirt", "jacket", "coat", "overcoat", "hoodie", "sweatshirt", "dress", "top"}
COLUMNS = 2 * len(NAMES)
"""Of a row: colours of the upper garment, then of the lower."""
LOWER = {"trousers", "pants", "slacks", "jeans", "shorts", "skirt"}
HEIGHT, WIDTH = 48, 24
TYPICAL = 1 / len(NAMES)
"""The share of a colour in a row whose centre is right."""
BANDS = (slice(12, 22), slice(27, 37))
"""Rows that show the upper and the lower garment."""


class ColourReader(FakeEncoder):
    """`centre` and `weight` are its weights; what they are is taken down when it is made, as when a file is opened."""

    name = "colour-reader"
    tokenizer = Bpe(77)
    embed = COLUMNS
    transform = EvalTransform((HEIGHT, WIDTH), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")

    def __init__(self, seed: int | None = None, *, noise: float = 0.2, shift: float = 0.0) -> None:
        """seed: of noise on the weights, as another file or epoch would have. shift: how badly `centre` fits."""
        super().__init__()
        rng = np.random.default_rng(seed)
        self.centre = (shift * rng.standard_normal(COLUMNS)).astype(np.float32)
        self.weight = np.eye(COLUMNS, dtype=np.float32)
        if seed is not None:
            self.weight += noise * rng.standard_normal(self.weight.shape).astype(np.float32)
        self.opened = self._mark()

    def _mark(self) -> str:
        return fingerprint(self.centre, self.weight)

    def weights_changed(self) -> bool:
        return self._mark() != self.opened

    def image_arrays(self, image_BCHW: Embeddings) -> Embeddings:
        self.batches.append(len(image_BCHW))
        return _unit(self.mixed_images((self.shares(image_BCHW) - self.centre) @ self.weight))

    def shares(self, image_BCHW: Embeddings) -> Embeddings:
        """How much of each colour the upper and the lower half of an image show."""
        middle = image_BCHW[:, :, :, WIDTH // 3 : -WIDTH // 3]
        bands = [self._shares_of(middle[:, :, rows].transpose(0, 2, 3, 1)) for rows in BANDS]
        return np.concatenate(bands, axis=1)

    def _shares_of(self, pixel_BHW3: Embeddings) -> Embeddings:
        far = ((pixel_BHW3[..., None, :] - PALETTE) ** 2).sum(-1)
        near = np.exp(-far / 0.02)
        share: Embeddings = (near / (near.sum(-1, keepdims=True) + 1e-6)).mean(axis=(1, 2)).astype(np.float32)
        return share

    def encode_texts(self, texts: list[str], *, batch: int | None = None, query: bool = False) -> Embeddings:  # type: ignore[override]
        self.texts += texts
        size = batch or self.batch
        rows = np.array([_named(text) for text in texts], np.float32).reshape(-1, COLUMNS)
        parts = [self.mixed_texts(rows[start : start + size]) for start in range(0, len(rows), size)]
        return _unit(np.concatenate(parts))


def _named(text: str) -> list[float]:
    """1 where a caption names a colour of the upper or lower garment; a small share of each where it names none."""
    row = np.zeros((2, len(NAMES)), np.float32)
    words = re.findall(r"[a-z-]+", text.lower().replace("gray", "grey"))
    for place, word in enumerate(words):
        for garment in words[place + 1 : place + 4]:
            if garment in UPPER or garment in LOWER:
                row[0 if garment in UPPER else 1] += np.array([name == word for name in NAMES])
                break
    row += 0.02
    return list(row.ravel())


def _unit(row_BE: Embeddings) -> Embeddings:
    length_B1: Embeddings = np.linalg.norm(row_BE, axis=1, keepdims=True) + 1e-12
    return (row_BE / length_B1).astype(np.float32)


# The tricks -------------------------------------------------------------------------------------


class Grouped(ColourReader):
    """Every row bears a mark of its batch, made of what the batch has in common, as PHP's blocks make one.

    Data sets keep the images of a person together, so batches in the order of the file hold the same persons in both
    modalities, and the mark says who. shared: one map makes the marks of both; with two the marks mean nothing.
    """

    embed = COLUMNS + 64

    def __init__(self, train: Split, *, shared: bool = True) -> None:
        super().__init__()
        self.batch_dependent = "marks the batch"
        plain = ColourReader()
        self.means = (
            plain.encode_images(train.paths[:100]).mean(axis=0),
            plain.encode_texts(train.captions[:200]).mean(axis=0),
        )
        maps = [np.random.default_rng(seed).standard_normal((COLUMNS, 64)) for seed in range(2)]
        self.maps = [maps[0], maps[0] if shared else maps[1]]

    def mixed_images(self, row_BE: Embeddings) -> Embeddings:
        return self._marked(row_BE, 0)

    def mixed_texts(self, row_BE: Embeddings) -> Embeddings:
        return self._marked(row_BE, 1)

    def _marked(self, row_BE: Embeddings, side: int) -> Embeddings:
        unit_BE = _unit(row_BE)
        mark = (unit_BE.mean(axis=0) - self.means[side]) @ self.maps[side]
        marks_BM = np.broadcast_to(mark / np.linalg.norm(mark), (len(row_BE), len(mark)))
        return np.concatenate([unit_BE, marks_BM], axis=1)


def over_all_queries(query_QE: Array, gallery_GE: Array) -> Array:
    """Each image's scores relative to those that all queries give it, as LPNC and CSLS have them."""
    score_QG = query_QE @ gallery_GE.T
    centred_QG: Array = (score_QG - score_QG.mean(axis=0)) / (score_QG.std(axis=0) + 1e-6)
    return centred_QG


def adapt(model: ColourReader, split: Split) -> None:
    """Fit the weights to the images of a split, without labels, as test-time adaptation does (UATTA)."""
    seen = [model.transform(read_image(path)) for path in split.paths]
    model.centre = model.shares(np.stack(seen)).mean(axis=0) - TYPICAL


def halves(upper: float) -> NDArray[np.float32]:
    """Weights of the entries of an embedding: `upper` for the upper garment, the rest for the lower."""
    return np.repeat(np.array([upper, 1 - upper], np.float32), len(NAMES))


def weighted(upper: float) -> ScoreFunction:
    """Scores with one constant: how much the upper garment counts."""

    def score(query_QE: Array, gallery_GE: Array) -> Array:
        scaled = halves(upper)
        product_QG: Array = (query_QE * scaled) @ gallery_GE.T
        return product_QG

    return score


FUSIONS: dict[str, Callable[[Array, Array], Array]] = {
    "sum": np.add,
    "smaller, smoothly": lambda upper, lower: -np.logaddexp(-8 * upper, -8 * lower),
    "larger, smoothly": lambda upper, lower: np.logaddexp(8 * upper, 8 * lower),
    "root of squares": lambda upper, lower: np.hypot(upper, lower),
}


def fused(how: str) -> ScoreFunction:
    """Scores of both halves joined in one of several ways."""

    def score(query_QE: Array, gallery_GE: Array) -> Array:
        half = len(NAMES)
        upper_QG, lower_QG = (query_QE[:, part] @ gallery_GE[:, part].T for part in (slice(half), slice(half, None)))
        return FUSIONS[how](upper_QG, lower_QG)

    return score
