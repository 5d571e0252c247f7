"""Annotations of pre-training sets: millions of images with machine-made captions, in many shapes, read as a stream.

Their files are a list of records, a table of image -> captions, a list of one-entry tables, a JSON value a line or
Parquet; which of these is seen from the content, since the sets circulate in several. Records become a packed
`Dataset` (`data/blocks.py`) without ever being there twice. A file that breaks off gives what it has, with a warning
that names the byte.
"""

from __future__ import annotations

import hashlib
import logging
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from tbps_cli.amounts import amount
from tbps_cli.data.blocks import Lazy, Places, TextBlock, TextPacker
from tbps_cli.data.layouts import parquet, records
from tbps_cli.data.layouts.benchmark import Counts, Layout, missing_annotation
from tbps_cli.data.layouts.records import SPLIT_NAMES
from tbps_cli.data.layouts.stream import JsonStream
from tbps_cli.data.types import SPLITS, Dataset, PackedCaptions, PackedImages, Person
from tbps_cli.errors import DataError

logger = logging.getLogger("tbps")
IMAGE_FIELDS = ("file_path", "image_path", "img_path", "image", "file_name", "filename")
CAPTION_FIELD = re.compile(r"captions?(_?\d+)?")
HELD_OUT = 1_000
"""Persons that become val in a set that has neither val nor test; a tenth of them where there are few."""
TRAIN, VAL = SPLITS.index("train"), SPLITS.index("val")
PersonOf = Callable[[str, Mapping[str, object]], object]
"""(path, record) -> who is on the image, as the annotation states it; None: the image is its own person."""


@dataclass(frozen=True, kw_only=True)
class PretrainingLayout(Layout):
    """A pre-training set. `annotations` are patterns of names below its folder; all files that fit are read."""

    counts: Counts = field(default_factory=dict)
    """None: their sizes are known, but not how many persons we hold out."""
    telling: bool = True
    """Whether these names belong to this set alone; otherwise they count only in a folder that is called after it."""
    person: PersonOf | None = None
    other_roots: tuple[str, ...] = ()
    """Where its images may lie besides the usual folders: those of the set that they were taken from."""
    mend: Callable[[str], str] | None = None
    """What is taken out of its captions."""

    def is_called(self, folder: Path) -> bool:
        """Whether a folder has the set's name, in any spelling."""
        spelled = folder.absolute().name.lower().replace("_", "-")
        return spelled in (self.folder.lower(), self.name, *self.aliases)

    def annotation_in(self, folder: Path, certain: bool = False) -> Path | None:
        return next(iter(self.files_in(folder, certain)), None)

    def files_in(self, folder: Path, certain: bool = False) -> list[Path]:
        """All annotation files of a folder. certain: it is known to be this set's."""
        if not (certain or self.telling or self.is_called(folder)):
            return []
        found = (path for pattern in self.annotations for path in sorted(folder.glob(pattern)) if path.is_file())
        return list(dict.fromkeys(found))

    def place_of(self, source: Path, folder: Path) -> Path:
        pattern = next((name for name in self.annotations if PurePath(source.name).match(PurePath(name).name)), None)
        return folder / self.annotations[0] if pattern is None else folder / PurePath(pattern).with_name(source.name)

    def read(self, folder: Path) -> Dataset:
        files = self.files_in(folder, certain=True)
        if not files:
            raise missing_annotation(self, folder)
        return self.read_files(files, folder)

    def read_file(self, path: Path) -> Dataset:
        home = next((place for place in list(path.absolute().parents)[:4] if self.is_called(place)), path.parent)
        return self.read_files([path], home)

    def read_files(self, files: list[Path], folder: Path) -> Dataset:
        """The data set of these files. Raises DataError naming file and record of what is wrong."""
        rows = RowPacker(self.person is not None)
        for path in files:
            rows.begin_file()
            usual = _split_of_file(path)
            try:
                for number, (key, value) in enumerate(_elements(path, rows), start=1):
                    self._add(rows, key, value, usual, number, path)
            except parquet.BrokenOff as error:
                if len(files) == 1:
                    raise
                rows.notes.append(error.message.rstrip("."))
        if not rows.count:
            names = ", ".join(map(str, files))
            raise DataError(f"{names}: no records.", "The file may be truncated: download it again.")
        for note in rows.notes:
            logger.warning("data: %s. What was read before is used; download the file again for the rest", note)
        images, captions = rows.packed()
        root = records.image_root(folder, images.names[:5], up=0, more=self.other_roots)
        return Dataset(self.name, root, images, captions, rows.notes, files[0] if len(files) == 1 else folder)

    def _add(self, rows: RowPacker, key: str | None, value: object, usual: str, number: int, path: Path) -> None:
        image, record, described = _described(key, value, number, path)
        where = records.as_path(image, number, path)
        texts = texts_of(described, number, path)
        if self.mend:
            texts = [self.mend(text) for text in texts]
        split = records.as_split(record["split"], number, path) if "split" in record else usual
        stated = self.person(where, record) if self.person else None
        person = where if stated is None else records.as_person(stated, number, path)
        rows.add(where, texts, split, person)


# Elements of files ------------------------------------------------------------------------------


def _elements(path: Path, rows: RowPacker) -> Iterator[tuple[str | None, object]]:
    """(key, value) of each record of a file of any shape; what breaks off is noted."""
    if path.suffix.lower() == parquet.SUFFIX:
        stream = parquet.read(path, IMAGE_FIELDS, CAPTION_FIELD)
        yield from ((None, row) for row in stream)
        return
    elements = JsonStream(path)
    yield from elements
    if elements.cut:
        rows.notes.append(elements.cut)


def _described(key: str | None, value: object, number: int, path: Path) -> tuple[object, Mapping[str, object], object]:
    """(image, record, what holds the captions) of an entry in any of the shapes."""
    if key is not None:
        return key, {}, value
    if not isinstance(value, dict):
        raise DataError(f"{path}: record {number} is not an object but {records.shown(value)}.")
    field = next((name for name in IMAGE_FIELDS if isinstance(value.get(name), str)), None)
    if field is not None:
        return value[field], value, value
    if len(value) == 1:
        image, described = next(iter(value.items()))
        if image not in IMAGE_FIELDS:
            return image, {}, described
    raise DataError(
        f"{path}: record {number} names no image.",
        f"It has {', '.join(map(repr, value)) or 'no fields'}; an image is called one of {', '.join(IMAGE_FIELDS)}.",
    )


def texts_of(described: object, number: int, path: Path) -> list[str]:
    """The captions of an entry: a sentence, a list of them, or an object with fields such as caption or caption1."""
    if not isinstance(described, dict):
        return records.as_captions(described, number, path)
    fields = [name for name in described if CAPTION_FIELD.fullmatch(name)]
    if not fields:
        raise DataError(
            f"{path}: record {number} has no captions.",
            f"It has {', '.join(map(repr, described)) or 'no fields'}; expected caption, captions or caption1.",
        )
    found = [described[name] for name in fields if described[name] is not None]
    return [text for one in found for text in records.as_captions(one, number, path)]


def _split_of_file(path: Path) -> str:
    """The split that a file's name or folder is called after; otherwise all of it is for training."""
    return SPLIT_NAMES.get(path.stem.lower()) or SPLIT_NAMES.get(path.parent.name.lower()) or "train"


# RowPacker -> columns --------------------------------------------------------------------------------


class RowPacker:
    """Collects entries of annotation files as packed columns; entries about one image become one image."""

    def __init__(self, persons: bool) -> None:
        self.notes: list[str] = []
        self._names, self._texts = TextPacker(), TextPacker()
        self._persons = TextPacker() if persons else None
        self._mark, self._person_mark = array("Q"), array("Q")  # of (split, path) and of the person, per row
        self._split = bytearray()
        self._row_of_caption = array("q")
        self._files: list[int] = []
        self._blank = self._twice = 0

    @property
    def count(self) -> int:
        return len(self._split)

    def begin_file(self) -> None:
        self._files.append(self.count)

    def add(self, image: str, texts: list[str], split: str, person: Person) -> None:
        """One entry: an image and its captions. Equal captions of one entry count once."""
        code = SPLITS.index(split)
        distinct = dict.fromkeys(texts)
        self._twice += len(texts) - len(distinct)
        for text in distinct:
            self._blank += not text.strip()
            self._texts.add(text)
            self._row_of_caption.append(self.count)
        self._names.add(image)
        self._mark.append(_mark(f"{code}{image}"))
        if self._persons is not None:
            written = f"n{person}" if isinstance(person, int) else f"s{person}"
            self._persons.add(written)
            self._person_mark.append(_mark(written))
        self._split.append(code)

    def packed(self) -> tuple[PackedImages, PackedCaptions]:
        """The columns of images and captions, images by first appearance; what is odd goes to the notes."""
        image_R, first_I = _numbered(np.frombuffer(self._mark, np.uint64))
        names = self._names.packed().take(first_I)
        split_I = np.frombuffer(self._split, np.uint8)[first_I]
        persons: Sequence[Person] = names
        person_I = np.arange(len(names))
        if self._persons is not None:
            self._note_second_persons(image_R, first_I, names)
            person_I, first_P = _numbered(np.frombuffer(self._person_mark, np.uint64)[first_I])
            persons = PersonBlock(self._persons.packed().take(first_I[first_P]))
        captions = self._captions_of(image_R)
        self._note_oddities(image_R, names, captions)
        if (split_I == TRAIN).all():
            split_I = self._hold_out(split_I, person_I, persons)
        return PackedImages(names, persons, person_I, split_I), captions

    def _captions_of(self, image_R: Places) -> PackedCaptions:
        """The captions, those of an image together in the order of the files; each once an image."""
        texts = self._texts.packed()
        image_C = image_R[np.frombuffer(self._row_of_caption, np.int64)]
        order = np.argsort(image_C, kind="stable")
        captions = PackedCaptions(texts.take(order), image_C[order])
        if len(image_R) == image_R.max() + 1:
            return captions
        mark_C = np.fromiter((hash(text) for text in captions.texts), np.int64, len(captions))
        place_C = np.lexsort((np.arange(len(captions)), mark_C, captions.image_C))
        again_C = (np.diff(mark_C[place_C]) == 0) & (np.diff(captions.image_C[place_C]) == 0)
        kept = np.setdiff1d(np.arange(len(captions)), place_C[1:][again_C])
        self._twice += len(captions) - len(kept)
        return captions.take(kept)

    def _hold_out(self, split_I: NDArray[np.uint8], person_I: Places, persons: Sequence[Person]) -> NDArray[np.uint8]:
        """Where all is for training, some persons become val, chosen by their names: the same on every machine."""
        count = min(HELD_OUT, len(persons) // 10)
        if not count:
            return split_I
        mark_P = np.fromiter((_mark(repr(person)) for person in persons), np.uint64, len(persons))
        held_P = np.zeros(len(persons), bool)
        held_P[np.argsort(mark_P, kind="stable")[:count]] = True
        persons_are = amount(count, "person is", "persons are")
        self.notes.append(f"no split is stated: {persons_are} held out as val, by name; the rest is train")
        return np.where(held_P[person_I], VAL, split_I).astype(np.uint8)

    # Notes --------------------------------------------------------------------------------------

    def _note_second_persons(self, image_R: Places, first_I: Places, names: TextBlock) -> None:
        mark_R = np.frombuffer(self._person_mark, np.uint64)
        other_R = np.flatnonzero(mark_R != mark_R[first_I][image_R])
        if len(other_R):
            first = names[int(image_R[other_R[0]])]
            records_give = amount(len(other_R), "record gives", "records give")
            self.notes.append(f"{records_give} an image another person than before (first: {first})")

    def _note_oddities(self, image_R: Places, names: TextBlock, captions: PackedCaptions) -> None:
        bare = np.flatnonzero(np.bincount(captions.image_C, minlength=len(names)) == 0)
        if len(bare):
            self.notes.append(
                f"{amount(len(bare), 'image has', 'images have')} no caption (first: {names[int(bare[0])]})"
            )
        if self._blank:
            self.notes.append(f"{amount(self._blank, 'caption is', 'captions are')} empty")
        if self._twice:
            self.notes.append(f"{amount(self._twice, 'caption')} left out: the same as another of the image")
        ends = [*self._files[1:], self.count]
        files = [image_R[start:end] for start, end in zip(self._files, ends, strict=True)]
        repeated = sum(len(image_F) - len(np.unique(image_F)) for image_F in files)
        if repeated:
            records_repeat = amount(repeated, "record repeats", "records repeat")
            self.notes.append(f"{records_repeat} an image path: the captions are joined")


class PersonBlock(Lazy[Person]):
    """Persons written as texts: n17 for the number, s17 for the name."""

    def __init__(self, written: TextBlock) -> None:
        self.written = written

    def __len__(self) -> int:
        return len(self.written)

    def at(self, place: int) -> Person:
        text = self.written.at(place)
        return int(text[1:]) if text[0] == "n" else text[1:]


def _numbered(mark_R: NDArray[np.uint64]) -> tuple[Places, Places]:
    """(number of each row's mark by first appearance, the row in which each mark appears first)."""
    _, first, number = np.unique(mark_R, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(first), np.int64)
    rank[order] = np.arange(len(first))
    return rank[number], first[order].astype(np.int64)


def _mark(text: str) -> int:
    """64 bits of a text: two of five million texts are alike once in a million sets."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest())
