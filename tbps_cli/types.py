"""The few objects that cross the borders of the house.

Tensor names end in their shape: B batch, T text tokens, P image tokens, D width, E embedding,
C H W image, Q queries, G gallery, K kept. This module imports no torch at run time, so that a
search over exported graphs stays free of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Features = dict[str, "Tensor"]
"""What the losses of a method need, each tensor with the batch as its first axis, so that chunks
and ranks are joined by concatenation. `image` and `text` hold the embeddings before normalisation."""


@dataclass
class Batch:
    """One training batch; every tensor has the batch as its first axis.

    images: view name -> float32 [B, C, H, W], normalised; every method has at least "image".
    tokens: text view name -> int64 [B, T]; at least "text"; masking adds "masked" and "label".
    person_B: class of the identity among the training persons, int64, 0..identities-1.
    image_B: running number of the training image, int64; captions of one image share it.
    sample_B: position of the caption in the training list, int64.
    whole: on several ranks each usually has its share; a rest of fewer pairs than ranks is whole on each.
    """

    images: dict[str, Tensor]
    tokens: dict[str, Tensor]
    person_B: Tensor
    image_B: Tensor
    sample_B: Tensor
    whole: bool = False

    def __len__(self) -> int:
        return len(self.person_B)

    def map(self, change: object) -> Batch:
        """The batch with `change` (Tensor -> Tensor) applied to every tensor."""
        assert callable(change)
        return Batch(
            {name: change(value) for name, value in self.images.items()},
            {name: change(value) for name, value in self.tokens.items()},
            change(self.person_B),
            change(self.image_B),
            change(self.sample_B),
            self.whole,
        )

    def to(self, device: object) -> Batch:
        """The batch on another device (copies overlap with computation where memory is pinned)."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def rows(self, start: int, stop: int) -> Batch:
        """Rows start..stop-1 as a batch of their own."""
        return self.map(lambda tensor: tensor[start:stop])


@dataclass(frozen=True)
class Task:
    """What a method is built for: the image size in pixels, and which persons, images and captions train it."""

    image_size: tuple[int, int]
    identities: int = 0
    """0: no identity classifier can be built (evaluation never needs one)."""
    captions: int = 0
    """0: nothing can be remembered of single training captions."""
    image_persons: tuple[int, ...] = ()
    """The person (0..identities-1) of each training image; empty: nothing can be remembered of single images."""


@dataclass(frozen=True)
class Step:
    """Where training stands, for losses that change with time. All numbers count from 0."""

    epoch: int = 0
    iteration: int = 0
    """Within the epoch."""
    iterations: int = 1
    """In a whole epoch."""
    epochs: int = 1

    @property
    def overall(self) -> int:
        """Steps taken since the beginning."""
        return self.epoch * self.iterations + self.iteration


@dataclass(frozen=True)
class Group:
    """How one parameter is trained: which rate it takes, and whether it decays (separate questions)."""

    rate: str = "tower"
    """tower | new | bias | frozen, or a further name that the recipe's `optim.scale` knows."""
    decay: bool = True


class Scores(NamedTuple):
    """Retrieval scores in percent; definitions in `retrieval.metrics`."""

    R1: float
    R5: float
    R10: float
    mAP: float
    mINP: float


Grid = tuple[tuple[float, ...], ...]
"""Rows of cells, all of one length."""


class WordSupport(NamedTuple):
    """What an image says of one word of the query."""

    word: str
    support: float
    """How much better the sentence fits with it than without it or with another word; 0 or less: not supported."""
    instead: str | None = None
    """The word of its kind that fits better."""
    grid: Grid | None = None
    """Where in the image: rows of cells that lie evenly over the whole of it, each 0 to 1; None where nobody knows."""


@dataclass(frozen=True)
class Hit:
    """One image of an answer. `score` is the cosine unless the document says otherwise."""

    rank: int
    path: str
    """Relative to the gallery."""
    score: float
    file: Path
    """Where it lies on this machine."""
    person: int | str | None = None
    camera: str | None = None
    time: str | None = None
    """When it was taken."""
    source: str | None = None
    """The video or whole frame that it was found in, relative to the gallery; None: `file` is the image itself."""
    seconds: float | None = None
    """Into the video."""
    box: tuple[int, int, int, int] | None = None
    """x, y, width, height in pixels of the source."""
    track: str | None = None
    detection: float | None = None
    """How sure the detector was, 0 to 1."""
    group: str | None = None
    """The person, track, source or best image that the answer has one hit of; None: not grouped, or by itself."""
    members: int | None = None
    """How many images the group has in the answer's gallery, among those that passed the filter."""
    first: str | float | None = None
    """When the group was seen first: a time, or seconds into the video where no time is known."""
    last: str | float | None = None
    percentile: float | None = None
    """Percent of the gallery's images that score lower for this query."""
    z: float | None = None
    """Standard deviations above the gallery's mean score for this query."""
    probability: float | None = None
    """That it shows the person, if that person is in the gallery; known where the model was calibrated."""
    explain: tuple[WordSupport, ...] = ()
    """The words of the query, where that was asked for."""
