"""The shape that the three official annotations share: one list, one record per image.

They differ in the names of the file and of the image's key, in the counts and in whom to ask; those
facts stand in one file per data set. Back-translated captions of TBPS-CLIP's files are taken along
when such a file lies beside the official one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tbps_cli.data.layouts import records
from tbps_cli.data.layouts.records import Builder
from tbps_cli.data.types import Caption, Dataset, ImageRecord, Truth
from tbps_cli.errors import DataError

Counts = dict[str, tuple[int, int, int]]
"""Split -> (identities, images, captions)."""
About = Callable[[str], tuple[str | None, str | None]]
"""What an image's path says: (camera, time)."""


@dataclass(frozen=True)
class Layout:
    """A data set as its authors publish it, and what a user must know to get it."""

    name: str
    title: str
    """As papers write it."""
    aliases: tuple[str, ...]
    folder: str
    """Below the data root."""
    annotations: tuple[str, ...]
    """Names of the annotation file; the first is the official one."""
    image_key: str
    counts: Counts
    access: str
    """Whom to ask, what to sign, what arrives: several lines."""
    tree: str
    """The expected files, drawn as a tree."""
    about: About = lambda path: (None, None)
    ceiling: Callable[[Dataset, str], dict[str, float] | None] | None = None
    """The best scores that a split allows, for a data set that knows its truth."""
    truths: Callable[[Dataset, str], dict[str, Truth] | None] | None = None
    """That truth: path of an image -> what is known of it."""

    def annotation_in(self, folder: Path, certain: bool = False) -> Path | None:
        """The annotation file of this folder, by any of its names.

        certain: the folder is known to be this data set's, for those whose names do not tell.
        """
        return next((folder / name for name in self.annotations if (folder / name).is_file()), None)

    def place_of(self, source: Path, folder: Path) -> Path:
        """Where an annotation file that came alone belongs."""
        return folder / self.annotations[0]

    def read(self, folder: Path) -> Dataset:
        """All records of the data set in `folder`. Raises DataError naming what is missing."""
        path = self.annotation_in(folder)
        if path is None:
            raise missing_annotation(self, folder)
        return self.read_file(path)

    def read_file(self, path: Path) -> Dataset:
        """All records of one annotation file."""
        return read_file(self, path)


def read_file(layout: Layout, path: Path) -> Dataset:
    """The records of one official annotation file; images lie in imgs/ beside it."""
    builder = Builder(layout.name, path)
    for number, record in enumerate(records.read_records(path), start=1):
        key = layout.image_key if layout.image_key in record else _other_key(layout.image_key, record)
        where = records.as_path(records.required(record, key, number, path), number, path)
        person = records.as_person(records.required(record, "id", number, path), number, path)
        split = records.as_split(records.required(record, "split", number, path), number, path)
        texts = records.as_captions(records.required(record, "captions", number, path), number, path)
        backs = record.get("captions_bt")
        camera, time = layout.about(where)
        index = builder.image(ImageRecord(where, person, split, camera, time))
        builder.captions += captions_of(texts, index, backs, number, path)
    if not builder.images:
        raise DataError(f"{path} has no records.", "It may be truncated: download it again.")
    root = records.image_root(path.parent, (image.path for image in builder.images), up=0)
    dataset = builder.finish(root)
    attach_back_translations(dataset, path.parent)
    return dataset


def _other_key(key: str, record: records.Record) -> str:
    """Converters rename RSTPReid's key to that of the two others; either is taken."""
    other = {"file_path": "img_path", "img_path": "file_path"}.get(key, key)
    return other if other in record else key


def captions_of(texts: list[str], image: int, backs: object, number: int, path: Path) -> list[Caption]:
    """The captions of one image, paired with back-translations when the record has as many."""
    if backs is None:
        return [Caption(text, image) for text in texts]
    others = records.as_captions(backs, number, path)
    if len(others) != len(texts):
        raise DataError(
            f"{path}: record {number} has {len(texts)} captions but {len(others)} back-translations.",
            "captions_bt must be as long as captions (an empty sentence stands for none).",
        )
    return [Caption(text, image, back or None) for text, back in zip(texts, others, strict=True)]


def attach_back_translations(dataset: Dataset, folder: Path) -> None:
    """Take `captions_bt` from TBPS-CLIP's train_reid.json beside the official file, where it has them."""
    path = next((place for place in (folder / "train_reid.json", folder / "annotations/train_reid.json")
                 if place.is_file()), None)  # fmt: skip
    if path is None or any(caption.back_translation for caption in dataset.captions):
        return
    backs: dict[tuple[str, str], str] = {}
    for number, record in enumerate(records.read_records(path), start=1):
        where = records.as_path(records.required(record, "file_path", number, path), number, path)
        texts = records.as_captions(record.get("captions", []), number, path)
        others = records.as_captions(record.get("captions_bt", []), number, path)
        backs |= {(where, text): back for text, back in zip(texts, others, strict=False) if back}
    found = 0
    captions = []
    for caption in dataset.captions:
        back = backs.get((dataset.images[caption.image].path, caption.text))
        captions.append(replace(caption, back_translation=back) if back else caption)
        found += bool(back)
    dataset.captions = captions
    if found:
        dataset.notes.append(f"back-translations of {found:,} captions come from {path.name}")


def missing_annotation(layout: Layout, folder: Path) -> DataError:
    """Say which annotation is missing from a folder that exists, and what lies there instead."""
    hint = f"It belongs beside imgs/. How to request it, and what to expect: tbps prepare-data {layout.name}"
    if (folder / "caption_all.json").is_file():
        hint = (
            "The archive of images holds only caption_all.json, which has no splits: reid_raw.json is a "
            f"separate download from the data set's page. Put it into {folder}."
        )
    try:
        there = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        there = []
    shown = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
    return DataError(f"{folder} has no {layout.annotations[0]} (it has {shown or 'nothing'}).", hint)
