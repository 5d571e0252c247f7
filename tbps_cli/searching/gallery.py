"""What a search ranks: vectors, the images they belong to, and what is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.images import UnreadableImage, read_image
from tbps_cli.data.types import Person
from tbps_cli.features.rows import Box, Row, Rows, encoded

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Skipped:
    """A file that is not a usable image, as it was when it was tried; size in bytes, mtime in nanoseconds."""

    path: str
    size: int
    mtime: int
    reason: str


@dataclass
class Update:
    """What an index did to catch up with its folder."""

    added: int = 0
    """Images that are new or have changed."""
    embedded: int = 0
    """Of these: images that the model has seen now; the content of the others was known."""
    removed: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    """Failed this time; what failed before and has not changed since is not tried again."""
    skipped_in_all: int = 0


@dataclass(frozen=True)
class Roots:
    """Where the files of a gallery lie: below one folder, or in several places that have names."""

    folder: Path
    """What paths are relative to, but for those that begin with one of the names."""
    named: Mapping[str, Path] = field(default_factory=dict)
    """Name -> a folder or a file; a path is the name, or begins with the name and a slash."""

    def file_of(self, path: str) -> Path:
        """Where the file of this name lies on this machine."""
        name, _, inside = path.partition("/")
        if name not in self.named:
            return self.folder / path
        return self.named[name] / inside if inside else self.named[name]


def crop_of(file: Path, seconds: float | None, box: Box | None) -> Image.Image:
    """An image file, a part of it, or a part of a frame of a video, as RGB, upright. Raises UnreadableImage."""
    if seconds is not None:
        raise UnreadableImage(file, "frames of videos cannot be read yet")
    image = read_image(file)
    if box is None:
        return image
    x, y, width, height = box
    return image.crop((x, y, x + width, y + height))


@dataclass(frozen=True)
class Gallery:
    """Images with their vectors, whether of a folder, an index or a data set."""

    name: str
    """As shown: the folder, the index file, or the data set and its split."""
    roots: Roots
    """Where the paths of the rows lie."""
    rows: Rows
    vector_GE: NDArray[Any]
    """Unit rows, often mapped from a file."""
    run: str = ""
    """The checkpoint that embedded them."""
    split: str | None = None
    truth: Mapping[str, frozenset[Person]] = field(default_factory=dict)
    """Caption -> the persons that it describes, where the data set says so."""
    update: Update = field(default_factory=Update)

    def __len__(self) -> int:
        return len(self.rows)

    def file_of(self, row: Row) -> Path:
        """Where an image lies on this machine, or the video or frame that it is a crop of."""
        return self.roots.file_of(row.source or row.path)

    def image_of(self, row: Row) -> Image.Image:
        """The image of a row as RGB, upright; a crop is made from its source. Raises UnreadableImage."""
        return crop_of(self.file_of(row), row.seconds, row.box)

    def places_of(self, content: str) -> NDArray[np.int64]:
        """The places of all images with these bytes (their `features.rows.content_hash`)."""
        return np.flatnonzero(self.rows.columns["content"] == encoded(content))

    def values(self, row: Row) -> dict[str, Any]:
        """What a filter may ask of an image, but for its score."""
        return {
            "path": row.path,
            "person": row.person,
            "camera": row.camera,
            "time": row.time,
            "split": self.split,
            "source": row.source,
            "seconds": row.seconds,
            "track": row.track,
            "width": row.box[2] if row.box else None,
            "height": row.box[3] if row.box else None,
            "detection": row.detection,
        }

    def knows(self, field: str) -> bool:
        """Whether any image has a value of a field that a filter may ask for."""
        return any(self.values(row)[field] is not None for row in self.rows)

    def document(self) -> dict[str, Any]:
        """What `tbps index --json` prints."""
        done = self.update
        return {
            "folder": self.name,
            "run": self.run,
            "size": len(self),
            "added": done.added,
            "embedded": done.embedded,
            "removed": done.removed,
            "left_out": [{"path": entry.path, "reason": entry.reason} for entry in done.skipped],
            "left_out_in_all": done.skipped_in_all,
        }
