"""A plain folder of one's own images, each with a text file of the same name beside it.

FOLDER/[train|val|test/][PERSON/]image.jpg + image.txt, one caption a line. A sub-folder is a person;
images that lie in no sub-folder are each their own person. Without split folders persons are dealt out
as in `pairs`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tbps_cli.data.image_files import SUFFIXES
from tbps_cli.data.layouts import records
from tbps_cli.data.layouts.pairs import deal_splits
from tbps_cli.data.layouts.records import SPLIT_NAMES, Builder
from tbps_cli.data.layouts.tables import split_lines
from tbps_cli.data.types import Caption, Dataset, ImageRecord
from tbps_cli.errors import DataError


def find_images(folder: Path) -> Iterator[Path]:
    """Every image file below a folder, in sorted order; hidden files and folders are skipped."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(where) / name


def fits(folder: Path) -> bool:
    """Whether any image has its caption beside it."""
    return any(path.with_suffix(".txt").is_file() for path in find_images(folder))


def read(folder: Path) -> Dataset:
    """The data set of a plain folder. Raises DataError when it has no images or no captions."""
    builder = Builder(folder.absolute().name, folder)
    splits: set[bool] = set()
    for path in find_images(folder):
        parts = path.relative_to(folder).parts
        split = SPLIT_NAMES.get(parts[0].lower()) if len(parts) > 1 else None
        splits.add(split is not None)
        within = parts[1:] if split else parts
        where = "/".join(parts)
        person = records.as_person(within[0] if len(within) > 1 else where, 0, folder)
        index = builder.image(ImageRecord(where, person, split or ""))
        text = path.with_suffix(".txt")
        lines = split_lines(records.read_text(text)) if text.is_file() else []
        builder.captions += [Caption(line.strip(), index) for line in lines if line.strip()]
    _check(builder, folder, splits)
    if splits == {False}:
        dealt = deal_splits(image.person for image in builder.images)
        builder.images = [replace(image, split=dealt[image.person]) for image in builder.images]
        builder.notes.append("no split folders: persons are dealt out 80/10/10 into train, val and test by their names")
    return builder.finish(folder)


def _check(builder: Builder, folder: Path, splits: set[bool]) -> None:
    if not builder.images:
        raise DataError(f"{folder} holds no images.", f"Images end in {' '.join(SUFFIXES)}.")
    if not builder.captions:
        raise DataError(
            f"{folder} has {len(builder.images):,} images but no captions.",
            "Put a text file of the same name beside each image (one caption a line), or a JSONL or CSV file "
            "with image and caption. To search a folder without captions: tbps index FOLDER.",
        )
    if len(splits) > 1:
        bare = next(image.path for image in builder.images if not image.split)
        raise DataError(
            f"{folder}: some images lie in train, val or test and others do not (first: {bare}).",
            "Move all of them into split folders, or none.",
        )
