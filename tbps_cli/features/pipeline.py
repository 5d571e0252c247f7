"""Images and captions become rows of a feature file: the one way for evaluation, indexes and searches.

A list goes in; what the file knows already by name, size and time of change stays as it is. Threads read, check
and transform the rest a few batches ahead of the encoder, so memory does not grow with the list. A content that
the file has under another name is not decoded again, and one that comes several times is embedded once. Rows are
written every few seconds: that is what a kill can cost.

What differs between the users is a `Policy`. Forms of a method whose embeddings depend on the rest of the batch
are embedded whole and in order, or taken whole from the file.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tbps_cli import interrupts
from tbps_cli.data.images import TRUNCATED, UnreadableImage, check_size, read_image
from tbps_cli.data.types import Person
from tbps_cli.features.encoder import Embeddings, Encoder, ImageEncoder
from tbps_cli.features.row_sink import ReadyRow, RowSink, Value
from tbps_cli.features.rows import Box, Row, change_time, content_hash, encoded
from tbps_cli.features.store import FeatureFile
from tbps_cli.features.taken import time_changed, time_taken
from tbps_cli.machine import available_cpus

if TYPE_CHECKING:
    from PIL import Image

Progress = Callable[[int, int], None]
FACTS = ("camera", "time", "person", "track")
"""Columns that follow from what is stated of an image, not from its file."""
Item = TypeVar("Item")


class Source(NamedTuple):
    """An image to embed: where it lies, what the feature file calls it, and what is known of it."""

    file: Path
    name: str
    camera: str | None = None
    time: str | None = None
    person: Person | None = None
    state: tuple[int, int] | None = None
    """Size and time of change, where somebody has looked already."""
    track: str | None = None
    box: Box | None = None
    """Only this part of the file is meant."""
    source: str | None = None
    """What the feature file calls the file that the part is of."""

    @property
    def facts(self) -> tuple[bytes | None, ...]:
        """What was stated of it, as the columns `FACTS` hold it; None where nothing was."""
        person = None if self.person is None else json.dumps(self.person)
        return tuple(fact if fact is None else encoded(fact) for fact in (self.camera, self.time, person, self.track))


@dataclass(frozen=True)
class Policy:
    """What becomes of images that are not quite right."""

    allow_truncated: bool
    """A file that ends early is used as far as it goes, as the papers do, and counted."""
    smallest: int
    """Pixels on a side; smaller images are unusable."""
    all_needed: bool
    """After the first unusable image nothing more is embedded: the others are only tried, so that all are counted."""
    dated: bool
    """Rows without a time get that of the photograph, else of the file's last change."""


@dataclass(frozen=True)
class Unusable:
    """An image that cannot be used, and why."""

    source: Source
    state: tuple[int, int]
    """Of the file when it was tried."""
    error: UnreadableImage


@dataclass
class EmbedReport:
    """What embedding a list took."""

    reused: int = 0
    """Items that were up to date."""
    added: int = 0
    """Rows that are new, or replace an older one."""
    embedded: int = 0
    """Contents that the encoder has seen now; those of the other new rows were known."""
    truncated: int = 0
    wide: int = 0
    """Decoded images that are wider than high: hardly crops of one person."""
    unusable: list[Unusable] = field(default_factory=list)


def embed_images(
    encoder: ImageEncoder,
    sources: Sequence[Source],
    file: FeatureFile,
    policy: Policy,
    *,
    batch: int,
    workers: int | None = None,
    progress: Progress | None = None,
    written: Callable[[], None] | None = None,
) -> EmbedReport:
    """Bring a feature file up to date with these images; rows of other images stay as they are.

    workers: threads that decode; default one a core, at most eight.
    progress: called with (images done, images to do), when there are any.
    written: called whenever new rows are in the file.
    Unusable images are in the report; `file.compact` is left to the caller, who may drop rows first.
    Raises CacheError when the file cannot be written.
    """
    todo = _outdated(encoder, sources, file)
    report = EmbedReport(reused=len(sources) - len(todo))
    if not todo:
        return report

    def encode(arrays: list[Embeddings]) -> Embeddings:
        return encoder.image_arrays(np.stack(arrays))

    sink = RowSink(file, encode, batch, whole=bool(encoder.batch_dependent), written=written)
    prepare = _Preparer(encoder, policy, sink)
    with ThreadPoolExecutor(workers or min(8, available_cpus()), thread_name_prefix="tbps-image") as pool:
        ahead = _ahead(pool, prepare, todo, 2 * batch)
        with closing(ahead):  # whatever happens below, nothing more is decoded
            _embed(todo, ahead, prepare.afresh, sink, report, progress, policy.all_needed)
    return report


def embed_texts(
    encoder: Encoder, texts: Sequence[str], file: FeatureFile, *, batch: int, progress: Progress | None = None
) -> NDArray[np.float32]:
    """[Q, E] of captions, in order. progress: called with (captions done, captions to do), when there are any."""
    whole = bool(encoder.batch_dependent)
    names = [content_hash(text.encode("utf-8", "surrogatepass")) for text in texts]
    if whole:  # equal captions in other company are other embeddings
        names = [f"{number}-{name}" for number, name in enumerate(names)]
    wanted = dict(zip(names, texts, strict=True))
    missing = [name for name, place in zip(wanted, file.places(list(wanted)).tolist(), strict=True) if place < 0]
    if not whole:
        # captions of similar length go together, so that few places of a batch are empty
        missing.sort(key=lambda name: len(wanted[name]))
    elif missing:
        missing = names

    def encode(sentences: list[str]) -> Embeddings:
        return encoder.encode_texts(sentences, batch=batch)

    def prepare(name: str) -> ReadyRow[str]:
        return ReadyRow(Row(name, content=name), wanted[name])

    sink = RowSink(file, encode, batch, whole=whole)
    _embed(missing, map(prepare, missing), prepare, sink, EmbedReport(), progress)
    text_QE = file.select(names)[1].astype(np.float32, copy=False)
    file.compact()
    return text_QE


def _outdated(encoder: ImageEncoder, sources: Sequence[Source], file: FeatureFile) -> list[Source]:
    """The images whose rows are missing, or were made of another size or time of change, or with other facts."""
    place_K = file.places([source.name for source in sources])
    there = np.flatnonzero(place_K >= 0)
    columns = file.known().take(place_K[there]).columns
    kept = zip(*(columns[name].tolist() for name in ("size", "mtime", "content", *FACTS)), strict=True)
    row_of = dict(zip(there.tolist(), kept, strict=True))
    outdated = [place for place, source in enumerate(sources) if _is_outdated(source, row_of.get(place))]
    if not encoder.batch_dependent:
        return [sources[place] for place in outdated]
    # Companions matter: unless every image is what it was, all are embedded again, in order and in whole batches.
    unchanged = (place in row_of and row_of[place][2] == _content_of(sources[place].file) for place in outdated)
    return [] if all(unchanged) else list(sources)


def _is_outdated(source: Source, row: tuple[Any, ...] | None) -> bool:
    """Whether a row (size, time of change, content, then `FACTS`) is not what is known of an image now."""
    if row is None:
        return True
    # a file that cannot be looked at has no state; whoever reads it says why
    if row[:2] != (source.state or _state_of(source.file)):
        return True
    return any(new not in (None, old) for new, old in zip(source.facts, row[3:], strict=True))


def _state_of(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, change_time(state)


def _content_of(path: Path) -> bytes | None:
    try:
        check_size(path)
        return content_hash(path).encode()
    except (OSError, UnreadableImage):
        return None


# Prepared ahead, in threads -------------------------------------------------------------------


class _Preparer:
    """Reads, checks and transforms one image."""

    def __init__(self, encoder: ImageEncoder, policy: Policy, sink: RowSink[Embeddings]) -> None:
        self.encoder, self.policy, self.sink = encoder, policy, sink

    def __call__(self, source: Source) -> ReadyRow[Embeddings] | Unusable:
        return self._prepared(source, skip_known=True)

    def afresh(self, source: Source) -> ReadyRow[Embeddings] | Unusable:
        """Decoded, whatever is known of the content."""
        return self._prepared(source, skip_known=False)

    def _prepared(self, source: Source, *, skip_known: bool) -> ReadyRow[Embeddings] | Unusable:
        state = source.state or (0, 0)
        try:
            check_size(source.file)
            # Read once: state, content and pixels are of the same bytes, even of a file that is being replaced.
            with source.file.open("rb") as opened:
                facts = os.fstat(opened.fileno())
                content = opened.read()
            state = facts.st_size, change_time(facts)
            row = _row_of(source, state, content_hash(content))
            if self.policy.dated and row.time is None:
                row = replace(row, time=time_taken(content) or time_changed(facts.st_mtime_ns))
            if skip_known and self.sink.knows(row.content):
                return ReadyRow(row, None)
            return self._decoded(source.file, content, row)
        except UnreadableImage as error:
            return Unusable(source, state, error)
        except OSError as error:
            return Unusable(source, state, UnreadableImage(source.file, error.strerror or str(error), lasting=False))
        except MemoryError:
            reason = "there is not enough memory for it"
            return Unusable(source, state, UnreadableImage(source.file, reason, lasting=False))

    def _decoded(self, path: Path, content: bytes, row: Row) -> ReadyRow[Embeddings]:
        image = read_image(
            path,
            content=content,
            allow_truncated=self.policy.allow_truncated,
            max_pixels=self.encoder.max_pixels,
        )
        if row.box:
            image = _part_of(image, row.box, path)
        if min(image.size) < self.policy.smallest:
            raise UnreadableImage(path, f"only {image.width} x {image.height} pixels")
        truncated = bool(image.info.get(TRUNCATED))
        return ReadyRow(row, self.encoder.transform(image), truncated, image.width > image.height)


def _row_of(source: Source, state: tuple[int, int], content: str) -> Row:
    """The row of a file, or of a part of it: equal parts of equal files have equal contents."""
    if source.box:
        content = content_hash(f"{content}#xywh={','.join(map(str, source.box))}".encode())
    return Row(
        source.name,
        *state,
        content,
        camera=source.camera,
        time=source.time,
        person=source.person,
        source=source.source,
        box=source.box,
        track=source.track,
    )


def _part_of(image: Image.Image, box: Box, path: Path) -> Image.Image:
    x, y, width, height = box
    if x + width > image.width or y + height > image.height:
        reason = f"the box {x},{y},{width},{height} is not inside its {image.width} x {image.height} pixels"
        raise UnreadableImage(path, reason)
    return image.crop((x, y, x + width, y + height))


def _ahead(
    pool: ThreadPoolExecutor, prepare: Callable[[Item], Value], items: Iterable[Item], window: int
) -> Generator[Value, None, None]:
    """`prepare` of each item, in order, at most `window` of them waiting."""
    waiting: deque[Future[Value]] = deque()
    rest = iter(items)
    try:
        _submit(pool, prepare, islice(rest, window), waiting)
        while waiting:
            yield interrupts.result(waiting.popleft())  # in order, whichever is ready first
            _submit(pool, prepare, islice(rest, 1), waiting)
    finally:
        for future in waiting:
            future.cancel()


def _submit(
    pool: ThreadPoolExecutor, prepare: Callable[[Item], Value], items: Iterable[Item], waiting: deque[Future[Value]]
) -> None:
    for item in items:
        with interrupts.held():
            waiting.append(pool.submit(prepare, item))


# Embedded and written, in the calling thread --------------------------------------------------


def _embed(
    items: Sequence[Item],
    prepared: Iterable[ReadyRow[Value] | Unusable],
    afresh: Callable[[Item], ReadyRow[Value] | Unusable],
    sink: RowSink[Value],
    report: EmbedReport,
    progress: Progress | None,
    all_needed: bool = False,
) -> None:
    """Send everything through the sink, and note what became of it."""
    truncated: set[str] = set()
    told = 0
    try:
        for done, (item, one) in enumerate(zip(items, prepared, strict=True), 1):
            if isinstance(one, ReadyRow) and not (report.unusable and all_needed) and not sink.add(one):
                one = afresh(item)  # the row whose embedding it was to share is gone: it is decoded after all
                if isinstance(one, ReadyRow):
                    sink.add(one)
            if isinstance(one, Unusable):
                report.unusable.append(one)
            else:
                # a copy of a truncated image is truncated too, though it was not decoded
                truncated |= {one.row.content} if one.truncated else set()
                report.truncated += one.row.content in truncated
                report.wide += one.wide
            if progress and done % sink.batch == 0:
                told = done
                progress(done, len(items))
        if not (report.unusable and all_needed):
            sink.embed()
    finally:
        sink.flush()
        report.added, report.embedded = sink.added, sink.embedded
    if progress and told < len(items):
        progress(len(items), len(items))
