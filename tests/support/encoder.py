"""An encoder without a network, for every test that needs one: searches have right answers without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tbps_cli.augment.transform import EvalTransform
from tbps_cli.choices import Choices
from tbps_cli.data.image_files import MAX_PIXELS
from tbps_cli.data.images import read_image
from tbps_cli.features.encoder import Embeddings, ImageWay
from tbps_cli.features.image_ways import own_way
from tbps_cli.text.bpe import Bpe

if TYPE_CHECKING:
    from tbps_cli.features.encoder import Encoder

COLOURS = {"red": (220, 10, 10), "green": (10, 220, 10), "blue": (10, 10, 220), "yellow": (220, 220, 10)}
DETAILS = 8
"""Entries after the three colours; zero for images of one colour and for sentences that name one."""


class FakeEncoder:
    """An image is its mean colour and a few pixels, a sentence the colours that it names, or else its letters.

    A test about batches overrides `mixed_images` or `mixed_texts`, which see the rows of one batch.
    """

    name = "fake"
    data: str | None = "synthetic"
    recipe = None
    choices = Choices()
    settings: tuple[str, ...] = ()
    precision = "fp32"
    embed = 3 + DETAILS
    batch = 64
    max_pixels = MAX_PIXELS
    path = Path("runs/fake-0001")
    transform = EvalTransform((8, 4), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    tokenizer = Bpe(12)

    def __init__(self, fingerprint: str = "0123456789abcdef", batch_dependent: str | None = None) -> None:
        self.fingerprint, self.batch_dependent = fingerprint, batch_dependent
        self.batches: list[int] = []
        """How many images each batch had."""
        self.texts: list[str] = []
        """Every sentence, in order."""

    @property
    def seen(self) -> int:
        """How many images it has embedded."""
        return sum(self.batches)

    def image_ways(self) -> list[ImageWay]:
        return [own_way(self)]

    def weights_changed(self) -> bool:
        return False

    def cut_count(self, texts: Sequence[str]) -> int:
        return self.tokenizer.cut_count(texts)

    def image_arrays(self, image_BCHW: Embeddings) -> Embeddings:
        self.batches.append(len(image_BCHW))
        colour_B3 = image_BCHW.mean(axis=(2, 3))
        pixel_BP = (image_BCHW - colour_B3[:, :, None, None]).reshape(len(image_BCHW), -1)[:, 20 : 20 + DETAILS]
        return unit(self.mixed_images(np.concatenate([colour_B3, pixel_BP], axis=1)))

    def encode_images(self, images: Sequence[str | Path | Image.Image], *, batch: int | None = None) -> Embeddings:
        opened = [read_image(image) if isinstance(image, str | Path) else image for image in images]
        return self.image_arrays(np.stack([self.transform(image) for image in opened]))

    def encode_texts(self, texts: Sequence[str], *, batch: int | None = None, query: bool = False) -> Embeddings:
        self.texts += texts
        size = batch or self.batch
        rows = np.array([_text_row(text) for text in texts], np.float32).reshape(-1, self.embed)
        parts = [self.mixed_texts(rows[start : start + size]) for start in range(0, len(rows), size)]
        return unit(np.concatenate([np.empty((0, self.embed), np.float32), *parts]))

    def mixed_images(self, row_BE: Embeddings) -> Embeddings:
        return row_BE

    def mixed_texts(self, row_BE: Embeddings) -> Embeddings:
        return row_BE


class Neighbours(FakeEncoder):
    """Images are seen relative to the mean of their batch, as with attention over the batch."""

    def mixed_images(self, row_BE: Embeddings) -> Embeddings:
        return row_BE - 0.1 * row_BE.mean(axis=0)


def _text_row(text: str) -> list[float]:
    named = [COLOURS[word] for word in text.split() if word in COLOURS]
    if named:
        return [*(np.sum(named, axis=0) + 1.0), *[0.0] * DETAILS]
    return list(np.random.default_rng(list(text.encode("utf-8", "surrogatepass"))).standard_normal(3 + DETAILS))


def unit(row_BE: Embeddings) -> Embeddings:
    """The rows at length 1."""
    length_B1: Embeddings = np.linalg.norm(row_BE, axis=1, keepdims=True)
    return (row_BE / length_B1).astype(np.float32)


if TYPE_CHECKING:
    fulfilled: type[Encoder] = FakeEncoder  # mypy compares every member with the protocol
