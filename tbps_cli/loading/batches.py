"""Making one training batch from a list of captions: images in every view, tokens, numbers.

This is what travels to worker processes. Every draw is derived from (seed, epoch, caption, view), so a batch is
the same wherever it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from tbps_cli.augment import one_pass, plans
from tbps_cli.augment.exact import Augment, Flip, augment
from tbps_cli.augment.one_pass import Pixels
from tbps_cli.augment.rng import Draws
from tbps_cli.data.image_files import MAX_PIXELS
from tbps_cli.data.images import TRUNCATED, read_pixels
from tbps_cli.data.types import Split
from tbps_cli.errors import TbpsError
from tbps_cli.loading.image_store import Store
from tbps_cli.loading.samplers import Order
from tbps_cli.loading.slots import Slots
from tbps_cli.text.masking import mask_words
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.text.word_changes import OF_WORDS, augment_caption, augment_ids

Made = dict[str, Any]
"""A batch on its way from a worker: plain dictionaries, which PyTorch knows how to pin."""


class WantedViews(Protocol):
    """What a method asks of a batch; `methods.base.Views` is one."""

    @property
    def images(self) -> Mapping[str, Augment]: ...
    @property
    def masked(self) -> bool: ...
    @property
    def augment_text(self) -> str | None: ...
    @property
    def text_options(self) -> Mapping[str, float]: ...


class MaskingTokenizer(Tokenizer, Protocol):
    """A tokenizer with a mask, which methods have that ask for masked or varied captions."""

    @property
    def mask_id(self) -> int: ...


@dataclass(frozen=True)
class Work:
    """One batch to be made: the captions, and how often each has come before in this epoch."""

    epoch: int
    captions: list[int]
    repeats: list[int]
    whole: bool = False
    """Fewer pairs than ranks: every rank makes all of them."""
    slot: int | None = None
    """Where its images are to be written; None: into memory of their own."""


_WORTH_COMPILING = 1000
"""Captions of a split: an epoch of so many images gains what compiling, or fetching what was compiled, takes."""
REMEMBERED = 200_000
"""Captions whose ids a process keeps, about 100 MB of them; those of the benchmarks all fit."""


@dataclass
class Maker(Dataset[Made]):
    """Makes batches from `Work`; it is what travels to worker processes.

    planned: draw what happens to the images, and leave the doing to a `BatchAugmenter`.
    slots: memory that this process shares with the one that trains.
    """

    split: Split
    views: WantedViews
    tokenizer: Tokenizer
    size: tuple[int, int]
    seed: int
    store: Store | None = None
    max_pixels: int = MAX_PIXELS
    planned: bool = False
    slots: Slots | None = None
    _rows: dict[int, NDArray[np.int32]] = field(default_factory=dict, repr=False)
    """Captions whose ids are known: they are the same in every epoch. The first `REMEMBERED` of them."""

    def __getitem__(self, work: Work) -> Made:
        try:
            return self.make(work)
        except TbpsError as error:
            return {"error": error, "slot": work.slot}

    def make(self, work: Work) -> Made:
        """Images in every view, tokens, and the numbers that say what they are."""
        captions = np.array(work.captions, dtype=np.int64)
        image_B = self.split.caption_image[captions]
        images, truncated = self._plans(work, image_B) if self.planned else self._images(work, image_B)
        return {
            "images": images if work.slot is None else {},
            "slot": work.slot,
            "tokens": self._tokens(work),
            "person_B": torch.from_numpy(self.split.class_of[image_B]),
            "image_B": torch.from_numpy(image_B),
            "sample_B": torch.from_numpy(captions),
            "truncated": truncated,
        }

    @cached_property
    def compiled(self) -> bool:
        """Whether images are made in a compiled pass; the values are the same."""
        return not self.planned and len(self.split) >= _WORTH_COMPILING and one_pass.ready()

    def _images(self, work: Work, image_B: Order) -> tuple[dict[str, Tensor], list[int]]:
        if work.slot is not None and self.slots is not None:
            images = self.slots.images(work.slot, len(image_B))
        else:
            images = {name: torch.empty(len(image_B), 3, *self.size) for name in self.views.images}
        truncated: list[int] = []
        for row, number in enumerate(image_B):
            loaded: dict[bool, Image.Image | Pixels] = {}
            for name, how in self.views.images.items():
                kept = self._kept(how)
                if kept not in loaded:
                    loaded[kept] = self._image(int(number), kept)
                augment(
                    loaded[kept],
                    self.size,
                    how,
                    self._draws(work, row, name),
                    out=images[name][row],
                    compiled=self.compiled,
                )
            if any(isinstance(image, Image.Image) and image.info.get(TRUNCATED) for image in loaded.values()):
                truncated.append(int(number))
        return images, truncated

    def _plans(self, work: Work, image_B: Order) -> tuple[dict[str, Tensor], list[int]]:
        """View -> what happens to each image: see `plans.draw`."""
        drawn, shape_B2 = {}, self._shapes(image_B)
        for name, how in self.views.images.items():
            seeds = [self._draws(work, row, name).seed for row in range(len(image_B))]
            drawn[name] = torch.from_numpy(plans.draw(how, self.size, seeds, image_B, shape_B2))
        return drawn, []

    def _shapes(self, image_B: Order) -> Order | None:
        """[B, 2] height and width of each image as it was read, where a view is cut from it and they are known."""
        if self.store is None or all(how.whole is None for how in self.views.images.values()):
            return None
        return self.store.shapes_of([self.split.paths[image] for image in image_B])

    def _kept(self, how: Augment) -> bool:
        """Whether the store has what this view begins with."""
        return self.store is not None and how.whole is None and how.resample == self.store.resample

    def _image(self, image: int, kept: bool) -> Image.Image | Pixels:
        path = self.split.paths[image]
        if kept and self.store is not None:
            return self.store.image(path)
        return read_pixels(path, allow_truncated=True, max_pixels=self.max_pixels)

    def _draws(self, work: Work, row: int, view: str) -> Draws:
        again = work.repeats[row]
        return Draws.of(self.seed, work.epoch, work.captions[row], f"{view}#{again}" if again else view)

    def _tokens(self, work: Work) -> dict[str, Tensor]:
        ids = self._ids(work)
        if self.views.augment_text == "vary":
            ids = np.array([self._varied(work, row, ids[row].tolist()) for row in range(len(ids))], dtype=np.int64)
        tokens = {"text": torch.from_numpy(ids)}
        if self.views.masked:
            pairs = [self._masked(work, row, ids[row].tolist()) for row in range(len(ids))]
            tokens["masked"] = torch.tensor([masked for masked, _ in pairs], dtype=torch.int64)
            tokens["label"] = torch.tensor([label for _, label in pairs], dtype=torch.int64)
        return tokens

    def _ids(self, work: Work) -> NDArray[np.int64]:
        """[B, T]; every caption is tokenised once, unless its words are drawn anew each time."""
        texts = range(len(work.captions))
        if self.views.augment_text in OF_WORDS:
            return self.tokenizer([self._text(work, row) for row in texts])
        fresh = [row for row in texts if work.captions[row] not in self._rows]
        found: dict[int, NDArray[np.int32]] = {}
        if fresh:
            ids = self.tokenizer([self._text(work, row) for row in fresh]).astype(np.int32)
            found = dict(zip((work.captions[row] for row in fresh), ids, strict=True))
        rows = [found[caption] if caption in found else self._rows[caption] for caption in work.captions]
        if len(self._rows) < REMEMBERED:
            self._rows |= found
        return np.stack(rows).astype(np.int64)

    def _text(self, work: Work, row: int) -> str:
        caption, name = work.captions[row], self.views.augment_text
        text = self.split.captions[caption]
        if name is None:
            return text
        rng = self._draws(work, row, "text").python
        return augment_caption(name, text, self.split.back_translations[caption], rng, self.views.text_options)

    def _varied(self, work: Work, row: int, ids: list[int]) -> list[int]:
        rng = self._draws(work, row, "ids").python
        return augment_ids("vary", ids, rng, mask=self._mask_id(), first_special=self._mask_id())

    def _masked(self, work: Work, row: int, ids: list[int]) -> tuple[list[int], list[int]]:
        rng = self._draws(work, row, "mask").python
        return mask_words(ids, rng, mask=self._mask_id(), first_special=self._mask_id())

    def _mask_id(self) -> int:
        return cast("MaskingTokenizer", self.tokenizer).mask_id


@dataclass(frozen=True)
class PlainViews:
    """A method's views with nothing drawn but the flip."""

    images: Mapping[str, Augment]
    masked: bool
    augment_text: str | None
    text_options: Mapping[str, float]

    @classmethod
    def of(cls, views: WantedViews) -> PlainViews:
        plain = {name: replace(how, steps=(Flip(0.5),)) for name, how in views.images.items()}
        return cls(plain, views.masked, views.augment_text, views.text_options)
