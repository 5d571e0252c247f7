"""The images of a folder become rows of a feature file, however many there are.

Threads read, check and transform a few batches ahead of the model, so memory does not grow with the
folder. A content that is in the file already, under whatever path, is not decoded again. Rows are
written every few seconds: that is what a kill can cost.
"""

from __future__ import annotations

import datetime
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tbps_cli.data.images import UnreadableImage, read_image
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.rows import Row, content_hash
from tbps_cli.features.store import FeatureFile
from tbps_cli.search.scan import Found

Progress = Callable[[int, int], None]
Array = NDArray[np.float32]

SMALLEST = 8
"""Pixels on a side; smaller images show nobody."""
FLUSH_SECONDS = 5.0
FLUSH_ROWS = 4096
_EXIF, _TAKEN = 0x8769, 36867
"""Where EXIF says when a photograph was taken."""


@dataclass(frozen=True)
class Failure:
    """Why an image cannot be used. Not `lasting`: it may become readable without changing."""

    found: Found
    reason: str
    lasting: bool = True


@dataclass
class Outcome:
    """How many images were added, how many of these the model has seen, and which failed."""

    added: int = 0
    embedded: int = 0
    failures: list[Failure] = field(default_factory=list)


def embed(
    model: Encoder,
    folder: Path,
    file: FeatureFile,
    images: Sequence[Found],
    *,
    batch: int,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Add these images to the file, in order, replacing rows of the same path.

    workers: threads; default one a core, at most eight. progress: called with (done, total).
    Raises CacheError when the file cannot be written.
    """
    outcome = Outcome()
    if not images:
        return outcome
    store = _Store(file)
    prepare = _Preparer(model, folder, store)
    done = 0
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), thread_name_prefix="tbps-index") as pool:
        try:
            prepared = _ahead(pool, prepare, images, 2 * batch)
            while group := list(islice(prepared, batch)):
                _add(model, group, prepare, store, outcome)
                done += len(group)
                if progress:
                    progress(done, len(images))
        finally:
            store.flush()
    return outcome


@dataclass(frozen=True)
class _Image:
    """A readable image: its row, and its array unless a vector of the same content is there."""

    found: Found
    row: Row
    array: Array | None


class _Preparer:
    """Reads, checks and transforms one image; called in threads."""

    def __init__(self, model: Encoder, folder: Path, store: _Store) -> None:
        self.folder = folder
        self.store = store
        self.transform = model.transform
        self.max_pixels = model.max_pixels

    def __call__(self, found: Found) -> _Image | Failure:
        path = self.folder / found.path
        try:
            content = content_hash(path)
        except OSError as error:
            return Failure(found, error.strerror or str(error), lasting=False)
        row = Row(found.path, found.size, found.mtime, content, time=time_of(path, found.mtime))
        return _Image(found, row, None) if content in self.store.path_of else self.load(found, row)

    def load(self, found: Found, row: Row) -> _Image | Failure:
        """Decode and transform, whatever is known of the content."""
        try:
            image = read_image(self.folder / found.path, max_pixels=self.max_pixels)
        except UnreadableImage as error:
            return Failure(found, error.reason)
        if min(image.size) < SMALLEST:
            return Failure(found, f"only {image.width} x {image.height} pixels")
        return _Image(found, row, self.transform(image))


def time_of(path: Path, mtime: int) -> str:
    """When a photograph was taken, as its EXIF says, else when the file last changed; ISO, local time."""
    try:
        with Image.open(path) as image:
            stated = image.getexif().get_ifd(_EXIF).get(_TAKEN)
        return datetime.datetime.strptime(str(stated), "%Y:%m:%d %H:%M:%S").isoformat()
    except Exception:  # damaged metadata comes in every form, and the time of change is always there
        return datetime.datetime.fromtimestamp(mtime // 10**9).isoformat()


def _ahead(
    pool: ThreadPoolExecutor, prepare: _Preparer, images: Iterable[Found], window: int
) -> Iterator[_Image | Failure]:
    """The prepared images in order, at most `window` of them waiting."""
    waiting: deque[Future[_Image | Failure]] = deque()
    rest = iter(images)
    try:
        waiting.extend(pool.submit(prepare, found) for found in islice(rest, window))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(prepare, found) for found in islice(rest, 1))
    finally:
        for future in waiting:
            future.cancel()


class _Store:
    """A feature file that rows are being added to, and where in it the vector of a content is."""

    def __init__(self, file: FeatureFile) -> None:
        self.file = file
        known = file.known()
        self.place = {path: place for place, path in enumerate(known.paths)}
        contents = (bytes(content).decode() for content in known.columns["content"].tolist())
        self.path_of = dict(zip(contents, known.paths, strict=True))
        """Content -> a path that has it, in the file or on its way there."""
        self.waiting: dict[str, tuple[Row, Array]] = {}
        """Path -> row and vector that are not written yet."""
        self.since = time.monotonic()

    def vector(self, content: str) -> Array | None:
        """The vector of a content; None when its only row was replaced meanwhile."""
        path = self.path_of.get(content)
        if path is None:
            return None
        if path in self.waiting:
            row, vector_E = self.waiting[path]
            return vector_E if row.content == content else None
        row = self.file.known()[self.place[path]]
        if (row.path, row.content) != (path, content):
            return None
        stored: Array = self.file.vectors(np.array([self.place[path]]))[0].astype(np.float32)
        return stored

    def add(self, row: Row, vector_E: Array) -> None:
        self.waiting[row.path] = row, vector_E
        self.path_of[row.content] = row.path

    def flush_when_due(self) -> None:
        if len(self.waiting) >= FLUSH_ROWS or time.monotonic() - self.since > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits; when this returns it survives a kill."""
        if self.waiting:
            rows, vectors = zip(*self.waiting.values(), strict=True)
            self.file.append(rows, np.stack(vectors))
            for row in rows:
                self.place.setdefault(row.path, len(self.place))
            self.waiting = {}
        self.since = time.monotonic()


def _add(
    model: Encoder,
    group: Sequence[_Image | Failure],
    prepare: _Preparer,
    store: _Store,
    outcome: Outcome,
) -> None:
    """Embed what is new among a group of images; equal contents once."""
    rows: list[Row] = []
    vectors: dict[str, Array] = {}
    arrays: dict[str, Array] = {}
    for one in group:
        content = one.row.content if isinstance(one, _Image) else ""
        known = store.vector(content) if content not in arrays else None
        if isinstance(one, _Image) and one.array is None and content not in arrays and known is None:
            one = prepare.load(one.found, one.row)
        if isinstance(one, Failure):
            outcome.failures.append(one)
            continue
        rows.append(one.row)
        if known is not None:
            vectors[content] = known
        elif one.array is not None:
            arrays.setdefault(content, one.array)
    if arrays:
        vectors |= dict(zip(arrays, model.image_arrays(np.stack(list(arrays.values()))), strict=True))
    for row in rows:
        store.add(row, vectors[row.content])
    outcome.added += len(rows)
    outcome.embedded += len(arrays)
    store.flush_when_due()
