"""What turns images and captions into embeddings, whatever it is: a run, an official file, an exported folder.

Everything above the models (features, retrieval, search) asks for this protocol and knows no class that
fulfils it. The classes are `models.model.Model` and `models.exported.ExportedModel`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

    from tbps_cli.augment.transform import EvalTransform
    from tbps_cli.choices import Choices
    from tbps_cli.recipe.schema import Stated
    from tbps_cli.text.tokenizer import Tokenizer

logger = logging.getLogger("tbps")

Embeddings = NDArray[np.float32]
"""[B, E], one unit vector a row."""


@dataclass(frozen=True)
class ImageWay:
    """One way of embedding images."""

    name: str
    """As messages say it, such as `bf16 (OpenVINO)`."""
    precision: str
    """fp32, bf16 or int8."""
    suffix: str
    """What the fingerprint of its vectors ends in; empty for the encoder's own way."""
    embed: Callable[[NDArray[np.float32]], Embeddings]
    """Images that the encoder's transform has prepared, one batch -> [B, E]."""
    batch: int
    """How many images it takes at a time best."""
    release: Callable[[], None] = lambda: None
    """Lets go of the memory that it needs until it is used again."""


class ImageEncoder(Protocol):
    """Embeds images; what it takes to bring a feature file of images up to date."""

    @property
    def path(self) -> Path:
        """The run, checkpoint or folder that it was opened from."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digits over everything that an embedding depends on; equal ones mean comparable embeddings."""
        ...

    @property
    def batch_dependent(self) -> str | None:
        """Why an embedding depends on the rest of its batch and what to set instead; None when it does not."""
        ...

    @property
    def max_pixels(self) -> int:
        """Larger images are refused before they are decoded."""
        ...

    @property
    def transform(self) -> EvalTransform:
        """An RGB image -> float32 [3, H, W]."""
        ...

    def image_arrays(self, image_BCHW: NDArray[np.float32]) -> Embeddings:
        """Images that `transform` has prepared -> [B, E]; they are one batch."""
        ...


class Encoder(ImageEncoder, Protocol):
    """Embeds images and captions, and says what its embeddings depend on."""

    @property
    def name(self) -> str:
        """The method."""
        ...

    @property
    def data(self) -> str | None:
        """The data set that it was trained on, by name or path, where that is known."""
        ...

    @property
    def recipe(self) -> Stated | None:
        """What it was trained by; an exported folder holds none."""
        ...

    @property
    def choices(self) -> Choices:
        """What was chosen by scores on the way to these weights, and on which split."""
        ...

    @property
    def embed(self) -> int:
        """Length of an embedding (E)."""
        ...

    @property
    def precision(self) -> str:
        """The arithmetic: fp32, int8 and so on."""
        ...

    @property
    def batch(self) -> int:
        """How many images or captions are embedded at a time when nobody says."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Captions -> ids."""
        ...

    @property
    def settings(self) -> tuple[str, ...]:
        """What was set when it was opened (`KEY=VALUE`), other than it was trained with."""
        ...

    def image_ways(self) -> list[ImageWay]:
        """How its images can be embedded here: its own way first, then quicker ones.

        Of each precision the last is what somebody gets who asks for that precision.
        """
        ...

    def weights_changed(self) -> bool:
        """Whether the weights are no longer those that were opened: trained further, or adapted to what they see."""
        ...

    def cut_count(self, texts: Sequence[str]) -> int:
        """How many of these captions are longer than the model reads, so that their last words do not count."""
        ...

    def encode_texts(self, texts: Sequence[str], *, batch: int | None = None, query: bool = False) -> Embeddings:
        """B sentences -> [B, E]. query: written by a person who searches, so special tokens are plain words."""
        ...

    def encode_images(self, images: Sequence[str | Path | Image.Image], *, batch: int | None = None) -> Embeddings:
        """Paths or images -> [B, E]. Raises UnreadableImage naming the path."""
        ...


def warn_of_cut(encoder: Encoder, texts: Sequence[str], what: str, advice: str = "") -> None:
    """Log how many sentences the encoder does not read to their end. what: what several of them are called."""
    cut = encoder.cut_count(texts)
    if not cut:
        return
    if len(texts) == 1:
        which = "the sentence is"
    else:
        which = f"{what}: {cut:,} of {len(texts):,} ({100 * cut / len(texts):.1f} %) are"
    logger.warning("%s longer than the model reads, so the last words do not count%s", which, advice and f"; {advice}")
