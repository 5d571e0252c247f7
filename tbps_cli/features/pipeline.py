"""Images and captions -> vectors, through the cache: nothing is embedded twice.

An image that the feature file knows by path, size and time of change is taken from there; a moved or
copied one is recognised by its content. The rest is decoded by threads ahead of the model, in file
order, in batches of a fixed size. Forms of a method whose embeddings depend on batch companions are
embedded whole and in order, or taken whole from the cache.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.images import TRUNCATED, UnreadableImage, read_image, require_images
from tbps_cli.data.types import Person, Split
from tbps_cli.errors import DataError
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.rows import Row, content_hash
from tbps_cli.features.store import FeatureFile, feature_path

logger = logging.getLogger("tbps")

Progress = Callable[[int, int], None]
FLUSH_SECONDS = 10.0
FLUSH_ROWS = 4096
"""New vectors are written at least this often: what a kill can cost."""


NOTHING = np.empty((0, 0), np.float32)
"""No vectors; how wide they would be costs a pass of the model to learn."""


@dataclass(frozen=True)
class Source:
    """An image to embed: where it lies, what the feature file calls it, and what is known of it."""

    file: Path
    name: str
    camera: str | None = None
    time: str | None = None
    person: Person | None = None


@dataclass
class Report:
    """What embedding a gallery took."""

    new: int = 0
    """Images that the model has seen now."""
    reused: int = 0
    """Images whose vectors were known, from this path or another."""
    truncated: int = 0
    unreadable: list[UnreadableImage] = field(default_factory=list)


@dataclass(frozen=True)
class Embedded:
    """A split as vectors: captions and images in file order, float32, unit rows."""

    text_QE: NDArray[np.float32]
    image_GE: NDArray[np.float32]
    report: Report


def embed_split(
    model: Encoder,
    split: Split,
    *,
    cache_dir: Path | None = None,
    batch: int = 64,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Embedded:
    """All captions, then all images of a split.

    cache_dir: the folder of caches; None embeds everything anew and keeps nothing.
    progress: called with (done, total) over captions and images together.
    Raises DataError naming how many images are missing or cannot be read; files that end early are
    used as the papers do, with a warning that counts them.
    """
    require_images(split.paths, split.root, split.dataset)
    total = len(split.captions) + len(split.paths)
    told = progress or _silent
    texts = _file(model, split.root, "texts", batch, cache_dir)
    text_QE = embed_texts(model, split.captions, texts, batch=batch, progress=lambda done, _: told(done, total))
    images = image_file(model, split.root, batch=batch, cache_dir=cache_dir)
    report = embed_images(
        model,
        sources_of(split),
        images,
        batch=batch,
        workers=workers,
        progress=lambda done, _: told(len(split.captions) + done, total),
    )
    if report.truncated:
        logger.warning("%d images end early; they are used as far as they go, as the papers do", report.truncated)
    names = [source.name for source in sources_of(split)]
    return Embedded(text_QE, images.vectors(images.places(names)), report)


def sources_of(split: Split) -> list[Source]:
    """The images of a split under the names that feature files give them: relative to its root."""
    return [
        Source(path, path.relative_to(split.root).as_posix(), camera, taken, person)
        for path, camera, taken, person in zip(split.paths, split.cameras, split.times, split.image_person, strict=True)
    ]


def image_file(model: Encoder, root: Path, *, batch: int = 64, cache_dir: Path | None = None) -> FeatureFile:
    """The feature file of the images below a data set's root, shared by evaluation and search."""
    return _file(model, root, "images", batch, cache_dir)


def _file(model: Encoder, root: Path, part: str, batch: int, cache_dir: Path | None) -> FeatureFile:
    if cache_dir is None:
        return FeatureFile.in_memory()
    if model.batch_dependent:
        part = f"{part}-batch{batch}"
    path = feature_path("features", root, model.fingerprint, part, cache_dir)
    about = {"run": str(model.path), "gallery": str(root.resolve())}
    return FeatureFile.open(path, model.fingerprint, rebuild=True, lenient=True, about=about)


def embed_texts(
    model: Encoder, texts: Sequence[str], file: FeatureFile, *, batch: int = 64, progress: Progress | None = None
) -> NDArray[np.float32]:
    """[Q, E] of captions, in order; equal sentences are embedded once."""
    names = [content_hash(text.encode("utf-8", "surrogatepass")) for text in texts]
    if model.batch_dependent:
        names = [f"{number}-{name}" for number, name in enumerate(names)]
    known = set(file.known().paths)
    if model.batch_dependent and not known >= set(names):
        known = set()
    wanted = {name: text for name, text in zip(names, texts, strict=True) if name not in known}
    told, before = progress or _silent, len(texts) - len(wanted)
    told(before, len(texts))
    pending = _Pending(file)
    # captions of similar length go together, so that few places of a batch are empty
    order = list(wanted) if model.batch_dependent else sorted(wanted, key=lambda name: len(wanted[name]))
    for chunk in _chunks(order, batch):
        vectors = model.encode_texts([wanted[name] for name in chunk], batch=batch)
        pending.add([Row(name, content=name) for name in chunk], np.asarray(vectors, np.float32))
        before += len(chunk)
        told(before, len(texts))
    pending.end()
    return file.vectors(file.places(names))


def embed_images(
    model: Encoder,
    sources: Sequence[Source],
    file: FeatureFile,
    *,
    batch: int = 64,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Bring a feature file up to date with these images; rows of other images stay as they are.

    A file that ends early is used as far as it goes, and counted. Raises DataError when images cannot
    be read, with their number; the vectors of the others before the first are kept.
    """
    report = Report()
    missing, copies = _missing(model, sources, file, report)
    unique: dict[str, list[tuple[Source, Row]]] = {}
    for source, row in missing:
        key = row.path if model.batch_dependent else row.content
        unique.setdefault(key, []).append((source, row))
    told, done = progress or _silent, report.reused
    told(done, len(sources))
    pending = _Pending(file)
    pending.add(*copies)
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        loaded = _ahead(pool, lambda group: _load(model, group[0][0].file), list(unique.values()), 2 * batch)
        for chunk in _batches(_readable(loaded, report), batch):
            done += sum(len(group) for group, _ in chunk)
            if not report.unreadable:  # from then on the others are only tried, so that all can be counted
                vectors = np.asarray(model.image_arrays(np.stack([array for _, array in chunk])), np.float32)
                rows = [row for group, _ in chunk for _, row in group]
                pending.add(rows, np.repeat(vectors, [len(group) for group, _ in chunk], axis=0))
            told(done, len(sources))
    pending.end()
    report.new = len(unique)
    if report.unreadable:
        first, count = report.unreadable[0], len(report.unreadable)
        raise DataError(
            f"{count:,} of {len(sources):,} images cannot be read (first: {first.path}: {first.reason}).", first.hint
        )
    return report


def _missing(
    model: Encoder, sources: Sequence[Source], file: FeatureFile, report: Report
) -> tuple[list[tuple[Source, Row]], tuple[list[Row], NDArray[np.float32]]]:
    """(images that must be embedded, rows whose vectors are known from equal content)."""
    known = file.known()
    place = {path: number for number, path in enumerate(known.paths)}
    of_content = {content: number for number, content in enumerate(known.columns["content"].tolist())}
    sizes, times = known.columns["size"], known.columns["mtime"]
    missing: list[tuple[Source, Row]] = []
    copied: list[tuple[Row, int]] = []
    for source in sources:
        state = source.file.stat()
        there = place.get(source.name)
        if there is not None and sizes[there] == state.st_size and times[there] == state.st_mtime_ns:
            report.reused += 1
            continue
        row = _row(source, state)
        twin = of_content.get(row.content.encode())
        if twin is None or (model.batch_dependent and twin != there):
            missing.append((source, row))
        else:
            copied.append((row, twin))
    if model.batch_dependent and missing:
        # Companions matter: all images again, in file order and whole batches.
        report.reused = 0
        return [(source, _row(source, source.file.stat())) for source in sources], ([], NOTHING)
    report.reused += len(copied)
    vectors = file.vectors(np.array([twin for _, twin in copied], np.int64)) if copied else NOTHING
    return missing, ([row for row, _ in copied], vectors)


def _row(source: Source, state: os.stat_result) -> Row:
    content = content_hash(source.file)
    return Row(source.name, state.st_size, state.st_mtime_ns, content, source.camera, source.time, source.person)


class _Pending:
    """New rows on their way to the file, written every few seconds."""

    def __init__(self, file: FeatureFile) -> None:
        self.file = file
        self.rows: list[Row] = []
        self.vectors: list[NDArray[np.float32]] = []
        self.since = time.monotonic()

    def add(self, rows: list[Row], vectors: NDArray[np.float32]) -> None:
        if rows:
            self.rows += rows
            self.vectors.append(vectors)
        if len(self.rows) >= FLUSH_ROWS or time.monotonic() - self.since > FLUSH_SECONDS:
            self.flush()

    def end(self) -> None:
        """Write what is left and leave one whole file behind."""
        self.flush()
        self.file.compact()

    def flush(self) -> None:
        if self.rows:
            self.file.append(self.rows, np.concatenate(self.vectors))
        self.rows, self.vectors, self.since = [], [], time.monotonic()


Group = list[tuple[Source, Row]]
"""Images of equal content."""
Loaded = tuple[NDArray[np.float32], bool] | UnreadableImage


def _load(model: Encoder, file: Path) -> Loaded:
    try:
        image = read_image(file, allow_truncated=True, max_pixels=model.max_pixels)
    except UnreadableImage as error:
        return error
    return model.transform(image), bool(image.info.get(TRUNCATED))


def _readable(loaded: Iterable[tuple[Group, Loaded]], report: Report) -> Iterator[tuple[Group, NDArray[np.float32]]]:
    for group, result in loaded:
        if isinstance(result, UnreadableImage):
            report.unreadable.append(result)
        else:
            report.truncated += len(group) * result[1]
            yield group, result[0]


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Group], Loaded], groups: Sequence[Group], window: int
) -> Iterator[tuple[Group, Loaded]]:
    """`work` on each item, in order, at most `window` items ahead of the consumer."""
    waiting: deque[tuple[Group, Future[Loaded]]] = deque()
    for group in groups:
        waiting.append((group, pool.submit(work, group)))
        if len(waiting) >= window:
            first, future = waiting.popleft()
            yield first, future.result()
    for group, future in waiting:
        yield group, future.result()


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _chunks(items: list[str], size: int) -> Iterator[list[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _silent(done: int, total: int) -> None:
    """Nobody asked."""
