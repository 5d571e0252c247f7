"""The one internal form of data: images, the captions that belong to them, and a split of both.

Every layout on disk is read into a `Dataset`; nothing above this layer knows in which file a
record stood. Records keep the order of the file, since a caption's number in the training list is
an address that published noise files use. Raw identities stay beside the class numbers: only their
equality matters in evaluation, while training needs 0..C-1.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import DataError

Person = int | str
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set: a path below the data set's root, who is on it, and its split."""

    path: str
    """Relative to the root, with forward slashes."""
    person: Person
    """The identity as the annotation names it."""
    split: str
    camera: str | None = None
    time: str | None = None


@dataclass(frozen=True)
class Caption:
    """One sentence about one image, and what some layouts add to it."""

    text: str
    image: int
    """Position in `Dataset.images`."""
    back_translation: str | None = None
    word_ids: tuple[int, ...] | None = None


@dataclass
class Dataset:
    """All records of one annotation, in file order. `notes` says what was odd while reading."""

    name: str
    root: Path
    """The folder that image paths are relative to."""
    images: list[ImageRecord]
    captions: list[Caption]
    notes: list[str] = field(default_factory=list)
    source: Path | None = None
    """The annotation file or folder, for messages."""
    numbered_by_split: bool = False
    """Whether each split may number its persons from the start: then equal numbers need not be one person."""

    def split(self, name: str) -> Split:
        """The images and captions of train, val or test. Raises DataError when there are none."""
        if name not in SPLITS:
            raise DataError(f"{self.name}: {name!r} is not a split.", f"Splits are {', '.join(SPLITS)}.")
        chosen = [index for index, image in enumerate(self.images) if image.split == name]
        place = {index: position for position, index in enumerate(chosen)}
        captions = [caption for caption in self.captions if caption.image in place]
        if not chosen or not captions:
            where = f" in {self.source}" if self.source else ""
            raise DataError(f"{self.name} has no {name} split{where}.", _empty_hint(self, name))
        return Split.of(self, name, [self.images[index] for index in chosen], captions, place)

    @property
    def splits(self) -> dict[str, tuple[int, int, int]]:
        """Split name -> (identities, images, captions), for the splits that have images."""
        images = Counter(image.split for image in self.images)
        captions = Counter(self.images[caption.image].split for caption in self.captions)
        persons = Counter(split for split, _ in {(image.split, image.person) for image in self.images})
        return {name: (persons[name], images[name], captions[name]) for name in SPLITS if images[name]}

    def persons_in_several_splits(self) -> dict[Person, list[str]]:
        """Person -> its splits, for those that are in more than one: what is learned of them inflates every score."""
        splits: defaultdict[Person, set[str]] = defaultdict(set)
        for image in () if self.numbered_by_split else self.images:
            splits[image.person].add(image.split)
        return {person: sorted(found, key=SPLITS.index) for person, found in splits.items() if len(found) > 1}

    def path_of(self, image: ImageRecord) -> Path:
        """Where an image lies on disk."""
        return self.root / image.path


@dataclass
class Split:
    """One split, ready to be evaluated or trained on; every list keeps the order of the file.

    The gallery is all images, the queries are all captions. `caption_image[q]` is the position
    in `paths` of the image that caption q describes.
    """

    dataset: str
    root: Path
    name: str
    paths: list[Path]
    image_person: list[Person]
    captions: list[str]
    caption_person: list[Person]
    caption_image: NDArray[np.int64]
    class_of: NDArray[np.int64]
    """Per image: rank of its raw identity among the sorted distinct ones (0..identities-1)."""
    identities: int
    cameras: list[str | None]
    times: list[str | None]
    back_translations: list[str | None]
    word_ids: list[tuple[int, ...] | None]

    @classmethod
    def of(
        cls, dataset: Dataset, name: str, images: list[ImageRecord], captions: list[Caption], place: dict[int, int]
    ) -> Split:
        """Build a split from its records; `place` maps an image's number in the data set to here."""
        own = np.array([place[caption.image] for caption in captions], dtype=np.int64)
        persons = [image.person for image in images]
        ranks = class_numbers(persons)
        return cls(
            dataset=dataset.name,
            root=dataset.root,
            name=name,
            paths=[dataset.root / image.path for image in images],
            image_person=persons,
            captions=[caption.text for caption in captions],
            caption_person=[persons[index] for index in own],
            caption_image=own,
            class_of=np.array([ranks[person] for person in persons], dtype=np.int64),
            identities=len(ranks),
            cameras=[image.camera for image in images],
            times=[image.time for image in images],
            back_translations=[caption.back_translation for caption in captions],
            word_ids=[caption.word_ids for caption in captions],
        )

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def caption_class(self) -> NDArray[np.int64]:
        """Per caption: the class number of its person."""
        return self.class_of[self.caption_image]


def class_numbers(persons: Iterable[Person]) -> dict[Person, int]:
    """Raw identity -> rank among the sorted distinct ones; numbers come before names.

    On the official files this gives the papers' own numbering (CUHK-PEDES: id - 1), and it also
    holds on a part of them.
    """
    distinct = sorted(set(persons), key=lambda person: (isinstance(person, str), person))
    return {person: rank for rank, person in enumerate(distinct)}


def _empty_hint(dataset: Dataset, name: str) -> str:
    there = [split for split in dataset.splits if split != name]
    if dataset.name == "icfg-pedes" and name == "val":
        return "ICFG-PEDES was published without one: set train.select_on=test (as the papers do), or --split test."
    if not there:
        return "Its annotation has no records with images and captions."
    return f"It has {' and '.join(there)}."
