"""The list of images and captions that a recipe leaves out (`data.exclude`): one JSON object a line.

    {"path": "cam_a/000_45.bmp", "caption": null, "split": "train", "reason": "the same image is in test"}

`caption` is the position of a caption among those of its image, from 0; null leaves the image out with
all of them. The audit writes such a list; a person may edit it. Leaving out test records changes what the
score means, so the data set's notes say so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tbps_cli.amounts import amount
from tbps_cli.data.blocks import Places
from tbps_cli.data.layouts import records
from tbps_cli.data.types import Caption, Dataset, PackedCaptions, select
from tbps_cli.errors import DataError
from tbps_cli.escape import json_text


@dataclass(frozen=True)
class Exclusion:
    """One image (caption None) or one of its captions, in one split, and why."""

    path: str
    caption: int | None
    split: str
    reason: str


def text_of(exclusions: Iterable[Exclusion]) -> str:
    """One line each, in the order given."""
    return "".join(json_text(vars(exclusion), indent=None) + "\n" for exclusion in exclusions)


def read(path: Path) -> list[Exclusion]:
    """The inverse of `text_of`. Raises DataError naming the line."""
    found: list[Exclusion] = []
    for number, line in enumerate(records.read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        record = records.parse_json(line, f"{path}, line {number},")
        caption = record.get("caption") if isinstance(record, dict) else None
        if not isinstance(record, dict) or not (caption is None or type(caption) is int):
            raise DataError(
                f"{path}: line {number} is not an exclusion.", "Write the list with: tbps prepare-data --audit"
            )
        split = records.as_split(record.get("split", "train"), number, path)
        where = records.as_path(records.required(record, "path", number, path), number, path)
        found.append(Exclusion(where, caption, split, str(record.get("reason", ""))))
    return found


def leave_out(dataset: Dataset, path: Path) -> Dataset:
    """The data set without the listed images and captions; entries that fit nothing are counted."""
    listed = {(entry.split, entry.path, entry.caption) for entry in read(path)}
    used: set[tuple[str, str, int | None]] = set()
    kept_I = np.ones(len(dataset.images), dtype=bool)
    image_C = dataset.image_of_captions()
    kept_C = np.ones(len(image_C), dtype=bool)
    named = {(split, name) for split, name, _ in listed}
    touched: dict[int, tuple[str, str]] = {}
    for index, image in enumerate(dataset.images):
        place = image.split, image.path
        if place not in named:
            continue
        touched[index] = place
        if (*place, None) in listed:
            used.add((*place, None))
            kept_I[index] = False
    position: defaultdict[int, int] = defaultdict(int)
    for number in np.flatnonzero(np.isin(image_C, list(touched))):
        owner = int(image_C[number])
        key = (*touched[owner], position[owner])
        position[owner] += 1
        if key in listed:
            used.add(key)
            kept_C[number] = False
    kept_C &= kept_I[image_C]
    images = select(dataset.images, np.flatnonzero(kept_I))
    captions = _renumbered(select(dataset.captions, np.flatnonzero(kept_C)), np.cumsum(kept_I) - 1)
    notes = [*dataset.notes, *_notes(dataset, len(images), len(captions), listed - used, used, path)]
    return replace(dataset, images=images, captions=captions, notes=notes)


def _renumbered(captions: Sequence[Caption], place_I: Places) -> Sequence[Caption]:
    """The captions of images that have moved: image i now stands at place_I[i]."""
    if isinstance(captions, PackedCaptions):
        return PackedCaptions(captions.texts, place_I[captions.image_C])
    return [replace(caption, image=int(place_I[caption.image])) for caption in captions]


def _notes(
    dataset: Dataset,
    images: int,
    captions: int,
    unused: set[tuple[str, str, int | None]],
    used: set[tuple[str, str, int | None]],
    path: Path,
) -> list[str]:
    gone = len(dataset.images) - images, len(dataset.captions) - captions
    notes = [f"{path.name} leaves out {amount(gone[0], 'image')} and {amount(gone[1], 'caption')}"]
    if unused:
        notes.append(f"{amount(len(unused), 'entry', 'entries')} of {path.name} not found in this data set")
    held = sum(split != "train" for split, _, _ in used)
    if held:
        of_them_are = amount(held, "of them is", "of them are")
        notes.append(f"{of_them_are} in val or test: scores are not comparable with published ones")
    return notes
