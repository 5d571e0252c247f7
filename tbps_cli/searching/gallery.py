"""What a search ranks: vectors, the images they belong to, and what is known of each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.types import Person
from tbps_cli.errors import DataError
from tbps_cli.features.asked import columns_of
from tbps_cli.features.rows import Box, Row, Rows, encoded
from tbps_cli.filtering.columns import Columns
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.tree import Tree
from tbps_cli.retrieval.rank import topk
from tbps_cli.trust.population import Population

if TYPE_CHECKING:
    from PIL import Image

    from tbps_cli.retrieval.cascade import Cascade
    from tbps_cli.retrieval.code_files import Coded

logger = logging.getLogger("tbps")
Places = NDArray[np.int64]

CODED = 200_000
"""From so many images on their 8-bit codes are kept and searched: then that is quicker than reading all vectors, even
where one search has to open the codes."""
FEW = 2000
"""So few images, those that a filter leaves, are ranked by their vectors at once."""
LEFT_OUT = 100
"""So many images more than four times those that are wanted are ranked where a filter leaves out the lesser part."""
FEW_QUERIES = 8
"""For more queries at once a copy of the rows that pass is worth it."""
SOME = 250
"""Images that are looked at first, where it is not known how many score so high."""
DEEP = 50
"""Where more than one image in so many is wanted, their vectors are read in any case."""


@dataclass(frozen=True)
class Skipped:
    """A file that is no usable image or video, as it was when it was tried; size in bytes, mtime in nanoseconds."""

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
    expired: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Images that have gone since they are too old: size in bytes and mtime in nanoseconds of each."""
    kept: bool = True
    """Whether the rows are on the disk; not so where it is full."""


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
    """An image file, a part of it, or a part of a frame of a video, as RGB, upright.

    Raises UnreadableImage and UnreadableVideo.
    """
    if seconds is None:
        from tbps_cli.data.images import read_image  # and with it PIL: most answers need no image

        return part_of(read_image(file), box)
    from tbps_cli.footage.crops import crop

    return crop(file, seconds, box)


def part_of(image: Image.Image, box: Box | None) -> Image.Image:
    """A box of an image, or all of it."""
    if box is None:
        return image
    x, y, width, height = box
    return image.crop((x, y, x + width, y + height))


@dataclass(frozen=True)
class IndexFile:
    """The feature file that holds the rows of a gallery, all of them and in its order."""

    path: Path
    fingerprint: str
    identity: tuple[int, ...]
    """As `features.snapshot.Snapshot` has it."""


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
    file: IndexFile | None = None
    """Where codes of its rows may lie; None where its rows are not those of one index."""

    def __len__(self) -> int:
        return len(self.rows)

    def file_of(self, row: Row) -> Path:
        """Where an image lies on this machine, or the video or frame that it is a crop of."""
        return self.roots.file_of(row.source or row.path)

    def image_of(self, row: Row) -> Image.Image:
        """The image of a row as RGB, upright; a crop is made from its source. Raises UnreadableImage."""
        return crop_of(self.file_of(row), row.seconds, row.box)

    def content_of(self, path: str) -> str:
        """What the file of a row holds, as `features.rows.content_hash` has it; empty where that is unknown."""
        places = np.flatnonzero(self.rows.columns["path"] == encoded(path))
        return str(self.rows[places[0]].content) if len(places) else ""

    def boxes_in(self, source: str, seconds: float | None) -> list[Box]:
        """Where persons were found in a frame."""
        columns = self.rows.columns
        there = columns["source"] == encoded(source)
        if seconds is not None:
            there &= columns["seconds"] == seconds
        boxes = columns["box"][there].tolist()
        return [(x, y, width, height) for x, y, width, height in boxes if width]

    def duration_of(self, source: str | None, track: str | None, seconds: float | None) -> tuple[float, float]:
        """How many seconds before and after this moment a track was seen; nothing where no track is known."""
        if source is None or track is None or seconds is None:
            return 0.0, 0.0
        columns = self.rows.columns
        same = (columns["source"] == encoded(source)) & (columns["track"] == encoded(track))
        moments = columns["seconds"][same]
        return max(0.0, seconds - float(np.nanmin(moments))), max(0.0, float(np.nanmax(moments)) - seconds)

    def vector_of(self, path: str) -> NDArray[np.float32]:
        """The vector of a row, [E]."""
        place = np.flatnonzero(self.rows.columns["path"] == encoded(path))[0]
        return np.asarray(self.vector_GE[place], np.float32)

    def count(self, tree: Tree) -> int:
        """How many images pass a filter that does not ask for the score."""
        return int(mask(tree, self.columns).sum())

    @property
    def population_GE(self) -> NDArray[Any]:
        """What a score is compared with: the vectors of all images."""
        return self.vector_GE

    @cached_property
    def sample(self) -> Population:
        """A part of the population, drawn once."""
        return Population.of(self.population_GE)

    def places_of(self, content: str) -> NDArray[np.int64]:
        """The places of all images with these bytes (their `features.rows.content_hash`)."""
        return np.flatnonzero(self.rows.columns["content"] == encoded(content))

    def best(self, query_QE: NDArray[np.float32], k: int, place_K: Places | None = None) -> tuple[NDArray[Any], Places]:
        """(score_QK, place_QK), best first, of the images at some places, ascending, or of all.

        In a large gallery whose codes are there these say where to look (`retrieval.cascade`); scores are always those
        of the vectors.
        """
        size = len(self) if place_K is None else len(place_K)
        if size < FEW or DEEP * k > size or self.cascade is None:
            most = None if place_K is None else self._best_of_most(query_QE, k, place_K)
            return most or topk(query_QE, self.vector_GE, k, place_K)
        coded = len(self.cascade)
        first = coded if place_K is None else int(np.searchsorted(place_K, coded))
        if DEEP * k > first:
            return topk(query_QE, self.vector_GE, k, place_K)
        found = self.cascade.best(query_QE, self.vector_GE, k, None if place_K is None else place_K[:first])
        rest_K = np.arange(coded, len(self)) if place_K is None else place_K[first:]
        return _merged(found, topk(query_QE, self.vector_GE, k, rest_K)) if len(rest_K) else found

    def _best_of_most(
        self, query_QE: NDArray[np.float32], k: int, place_K: Places
    ) -> tuple[NDArray[Any], Places] | None:
        """The best of most rows: those among the best of all, which are read where they lie; None where that is not so.

        Rows that a filter lets through are copied first, which takes longer than to rank all of them.
        """
        reach = 4 * k + LEFT_OUT
        if 2 * len(place_K) <= len(self) or DEEP * reach > len(self) or len(query_QE) > FEW_QUERIES:
            return None
        try:
            score_QK, place_QK = self.best(query_QE, reach)
        except DataError:  # of a row that may be none of these
            return None
        fits_G = np.zeros(len(self), bool)
        fits_G[place_K] = True
        fits_QK = fits_G[place_QK]
        if fits_QK.sum(axis=1).min(initial=k) < k:
            return None
        first_QK = np.argsort(~fits_QK, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(score_QK, first_QK, axis=1), np.take_along_axis(place_QK, first_QK, axis=1)

    def down_to(
        self, query_E: NDArray[np.float32], lowest: float, place_K: Places | None = None
    ) -> tuple[NDArray[Any], Places]:
        """(score_K, place_K) of all images that score at least so much, best first."""
        size = len(self) if place_K is None else len(place_K)
        count = min(SOME, size)
        while True:
            score_1K, place_1K = self.best(query_E[None], count, place_K)
            if count == size or score_1K[0, -1] < lowest:
                kept = int(np.count_nonzero(score_1K[0] >= np.float64(lowest)))
                return score_1K[0, :kept], place_1K[0, :kept]
            count = min(size, 8 * count)

    @property
    def coded(self) -> Coded | None:
        """What codes of this gallery would be of; None where it is too small for them."""
        if self.file is None or len(self) < CODED:
            return None
        from tbps_cli.retrieval.code_files import Coded

        return Coded(self.file.path, self.file.fingerprint, self.file.identity, self.rows, self.vector_GE)

    @cached_property
    def cascade(self) -> Cascade | None:
        """Its codes, as far as they can be used; a line says why those that are there cannot."""
        coded = self.coded
        if coded is None:
            return None
        from tbps_cli.retrieval.code_files import UnusableCodes, open_codes

        try:
            return open_codes(coded)
        except UnusableCodes as error:
            logger.warning(
                "%s: its 8-bit codes are not used, so searches take longer: %s. tbps index writes them anew.",
                self.name,
                error,
            )
            return None

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What was made of the rows for one search, and serves the next; by name."""
        return {}

    @cached_property
    def columns(self) -> Columns:
        """What a filter may ask of the images, but for their scores."""
        return columns_of(self.rows, self.split)

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


def _merged(one: tuple[NDArray[Any], Places], other: tuple[NDArray[Any], Places]) -> tuple[NDArray[Any], Places]:
    """The best of two rankings, as many as the first has; the lower place first where scores are equal."""
    score_QK = np.concatenate([one[0], other[0]], axis=1)
    place_QK = np.concatenate([one[1], other[1]], axis=1)
    order_QK = np.lexsort((place_QK, -score_QK), axis=1)[:, : one[0].shape[1]]
    return np.take_along_axis(score_QK, order_QK, axis=1), np.take_along_axis(place_QK, order_QK, axis=1)
