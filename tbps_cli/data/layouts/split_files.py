"""The shape that other papers' annotations share: one file per split, found by its name.

Where they lie differs (beside the images, in annotations/, processed_data/ or data/finetune/), and so
do the records; a `SplitFiles` says both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tbps_cli.data.layouts import records
from tbps_cli.data.layouts.records import Builder
from tbps_cli.data.types import SPLITS, Dataset
from tbps_cli.errors import DataError

Add = Callable[[Builder, str, Path], None]
"""Adds the records of one file to the builder: (builder, split, file)."""


@dataclass(frozen=True)
class SplitFiles:
    """One paper's layout: the names of its files (`{split}` stands for the split) and their reader."""

    paper: str
    patterns: tuple[str, ...]
    """Below the data set's folder, tried in order; `{prefix}` stands for the paper's short data set name."""
    add: Add
    fits: Callable[[object], bool]
    """Whether the content of a file is of this layout: several papers use the same names."""
    splits: tuple[str, ...] = SPLITS

    def find(self, folder: Path, prefix: str | None = None) -> dict[str, Path]:
        """Split -> file, for the first pattern that has any; the content decides between papers."""
        for pattern in self.patterns:
            if "{prefix}" in pattern and prefix is None:
                continue
            places = {split: folder / pattern.format(split=split, prefix=prefix) for split in self.splits}
            files = {split: path for split, path in places.items() if path.is_file()}
            if files and self.fits(_content(next(iter(files.values())))):
                return files
        return {}

    def read(self, files: dict[str, Path], name: str, folder: Path) -> Dataset:
        """The data set of these files; the images are looked for in `folder` and above it."""
        builder = Builder(name, next(iter(files.values())))
        for split, path in files.items():
            self.add(builder, split, path)
        if not builder.images:
            raise DataError(f"{', '.join(map(str, files.values()))}: no records.")
        builder.notes.append(f"annotation files of {self.paper}: {', '.join(path.name for path in files.values())}")
        dataset = builder.finish(records.image_root(folder, (image.path for image in builder.images)))
        dataset.numbered_by_split = True
        return dataset


def _content(path: Path) -> object:
    return records.parse_json(records.read_text(path), str(path))


def first_record(content: object) -> dict[str, object]:
    """The first object of a list, or an empty one: what `fits` looks at."""
    return content[0] if isinstance(content, list) and content and isinstance(content[0], dict) else {}
