"""The one internal form of data: images, the captions that belong to them, and a split of both.

Every layout on disk is read into a `Dataset`; nothing above this layer knows in which file a
record stood. Records keep the order of the file, since a caption's number in the training list is
an address that published noise files use. Raw identities stay beside the class numbers: only their
equality matters in evaluation, while training needs 0..C-1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.blocks import Chosen, Lazy, PathBlock, Places, Repeated, TextBlock
from tbps_cli.errors import DataError

Person = int | str
SPLITS = ("train", "val", "test")
LISTED = 100_000
"""Captions up to which a split of a packed set is made of lists, as those of other sets."""


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


class PackedImages(Lazy[ImageRecord]):
    """The images of a large set, by columns: image i shows persons[person_I[i]] and is in SPLITS[split_I[i]]."""

    def __init__(
        self, names: TextBlock, persons: Sequence[Person], person_I: Places, split_I: NDArray[np.uint8]
    ) -> None:
        self.names, self.persons, self.person_I, self.split_I = names, persons, person_I, split_I

    def __len__(self) -> int:
        return len(self.names)

    def at(self, place: int) -> ImageRecord:
        person = self.persons[int(self.person_I[place])]
        return ImageRecord(self.names.at(place), person, SPLITS[self.split_I[place]])

    def take(self, places: Places) -> PackedImages:
        """Some of the images, over the same texts."""
        return PackedImages(self.names.take(places), self.persons, self.person_I[places], self.split_I[places])


class PackedCaptions(Lazy[Caption]):
    """The captions of a large set, by columns: caption i describes image image_C[i]."""

    def __init__(self, texts: TextBlock, image_C: Places) -> None:
        self.texts, self.image_C = texts, image_C

    def __len__(self) -> int:
        return len(self.texts)

    def at(self, place: int) -> Caption:
        return Caption(self.texts.at(place), int(self.image_C[place]))

    def take(self, places: Places) -> PackedCaptions:
        """Some of the captions, over the same texts."""
        return PackedCaptions(self.texts.take(places), self.image_C[places])


@dataclass(frozen=True)
class Truth:
    """What a data set that was drawn knows of one image."""

    facts: Mapping[str, str]
    """Of the person, seen or not: "upper" -> "coat", "upper colour" -> "red" and so on."""
    captions: tuple[str, ...]
    """Plain sentences that are true of the image."""


@dataclass
class Dataset:
    """All records of one annotation, in file order. `notes` says what was odd while reading.

    Images and captions are lists, or packed where there are millions; a packed set has both of them packed.
    """

    name: str
    root: Path
    """The folder that image paths are relative to."""
    images: Sequence[ImageRecord]
    captions: Sequence[Caption]
    notes: list[str] = field(default_factory=list)
    source: Path | None = None
    """The annotation file or folder, for messages."""
    numbered_by_split: bool = False
    """Whether each split may number its persons from the start: then equal numbers need not be one person."""

    def split(self, name: str) -> Split:
        """The images and captions of train, val or test. Raises DataError when there are none."""
        if name not in SPLITS:
            raise DataError(f"{self.name}: {name!r} is not a split.", f"Splits are {', '.join(SPLITS)}.")
        chosen = np.flatnonzero(self.split_of_images() == SPLITS.index(name))
        image_C = self.image_of_captions()
        place = np.full(len(self.images), -1)
        place[chosen] = np.arange(len(chosen))
        own = place[image_C]
        captions = np.flatnonzero(own >= 0)
        if not len(chosen) or not len(captions):
            where = f" in {self.source}" if self.source else ""
            raise DataError(f"{self.name} has no {name} split{where}.", _empty_hint(self, name))
        return Split.of(self, name, select(self.images, chosen), select(self.captions, captions), own[captions])

    def split_of_images(self) -> NDArray[np.uint8]:
        """Per image: the position of its split in `SPLITS`."""
        if isinstance(self.images, PackedImages):
            return self.images.split_I
        return np.array([SPLITS.index(image.split) for image in self.images], dtype=np.uint8)

    def image_of_captions(self) -> Places:
        """Per caption: the position of its image."""
        if isinstance(self.captions, PackedCaptions):
            return self.captions.image_C
        return np.array([caption.image for caption in self.captions], dtype=np.int64)

    def persons_of_images(self) -> tuple[Sequence[Person], Places]:
        """(the distinct persons, per image the position of its own among them)."""
        if isinstance(self.images, PackedImages):
            return self.images.persons, self.images.person_I
        number: dict[Person, int] = {}
        of_image = [number.setdefault(image.person, len(number)) for image in self.images]
        return list(number), np.array(of_image, dtype=np.int64)

    @property
    def splits(self) -> dict[str, tuple[int, int, int]]:
        """Split name -> (identities, images, captions), for the splits that have images."""
        split_I, person_I = self.split_of_images(), self.persons_of_images()[1]
        split_C = split_I[self.image_of_captions()]
        counts = {}
        for code, name in enumerate(SPLITS):
            inside = split_I == code
            if inside.any():
                persons = len(np.unique(person_I[inside]))
                counts[name] = (persons, int(inside.sum()), int((split_C == code).sum()))
        return counts

    def persons_in_several_splits(self) -> dict[Person, list[str]]:
        """Person -> its splits, for those that are in more than one: what is learned of them inflates every score."""
        if self.numbered_by_split:
            return {}
        (persons, person_I), split_I = self.persons_of_images(), self.split_of_images()
        in_split = np.zeros((len(persons), len(SPLITS)), dtype=bool)
        in_split[person_I, split_I] = True
        shared = np.flatnonzero(in_split.sum(1) > 1)
        return {persons[int(index)]: [SPLITS[code] for code in np.flatnonzero(in_split[index])] for index in shared}

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
    paths: Sequence[Path]
    image_person: Sequence[Person]
    captions: Sequence[str]
    caption_person: Sequence[Person]
    caption_image: NDArray[np.int64]
    class_of: NDArray[np.int64]
    """Per image: rank of its raw identity among the sorted distinct ones (0..identities-1)."""
    identities: int
    cameras: Sequence[str | None]
    times: Sequence[str | None]
    back_translations: Sequence[str | None]
    word_ids: Sequence[tuple[int, ...] | None]

    @classmethod
    def of(
        cls, dataset: Dataset, name: str, images: Sequence[ImageRecord], captions: Sequence[Caption], own: Places
    ) -> Split:
        """Build a split from its records; own[c] is the position in `images` of the image of caption c."""
        if isinstance(images, PackedImages) and isinstance(captions, PackedCaptions) and len(captions) > LISTED:
            return cls._packed(dataset, name, images, captions, own)
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

    @classmethod
    def _packed(cls, dataset: Dataset, name: str, images: PackedImages, captions: PackedCaptions, own: Places) -> Split:
        """The same over packed records, whose texts are not copied."""
        present, number_I = np.unique(images.person_I, return_inverse=True)
        persons = [images.persons[int(index)] for index in present]
        order = sorted(range(len(persons)), key=lambda index: _rank_key(persons[index]))
        rank = np.empty(len(persons), np.int64)
        rank[order] = np.arange(len(persons))
        return cls(
            dataset=dataset.name,
            root=dataset.root,
            name=name,
            paths=PathBlock(dataset.root, images.names),
            image_person=Chosen(images.persons, images.person_I),
            captions=captions.texts,
            caption_person=Chosen(images.persons, images.person_I[own]),
            caption_image=own,
            class_of=rank[number_I],
            identities=len(persons),
            cameras=Repeated(None, len(images)),
            times=Repeated(None, len(images)),
            back_translations=Repeated(None, len(captions)),
            word_ids=Repeated(None, len(captions)),
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
    return {person: rank for rank, person in enumerate(sorted(set(persons), key=_rank_key))}


def _rank_key(person: Person) -> tuple[bool, Person]:
    return isinstance(person, str), person


@overload
def select(entries: Sequence[ImageRecord], places: Places) -> Sequence[ImageRecord]: ...
@overload
def select(entries: Sequence[Caption], places: Places) -> Sequence[Caption]: ...
def select(entries: Sequence[object], places: Places) -> Sequence[object]:
    """Some of the images or captions; packed ones stay packed."""
    if isinstance(entries, PackedImages | PackedCaptions):
        return entries.take(places)
    return [entries[int(place)] for place in places]


def _empty_hint(dataset: Dataset, name: str) -> str:
    there = [split for split in dataset.splits if split != name]
    if dataset.name == "icfg-pedes" and name == "val":
        return "ICFG-PEDES was published without one: set train.select_on=test (as the papers do), or --split test."
    if name == "val" and "test" in there:
        return f"It has {' and '.join(there)}: set train.select_on=test, or --split test."
    if name == "test" and "val" in there:
        return f"It has {' and '.join(there)}: --split val."
    if not there:
        return "Its annotation has no records with images and captions."
    return f"It has {' and '.join(there)}."
