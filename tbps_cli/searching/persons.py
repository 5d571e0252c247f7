"""Persons in videos and whole frames as rows of an index: found, tracked, cropped and embedded, file by file.

A file is done when all its persons are in the index; one that was interrupted goes on where it stopped, since rows
are written every few seconds and what the detector found is kept (`footage.sightings`). A file that was renamed
keeps its rows under the new name.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from tbps_cli.data.images import UnreadableImage
from tbps_cli.features.encoder import Embeddings, ImageEncoder
from tbps_cli.features.lookup import coded
from tbps_cli.features.pipeline import Progress
from tbps_cli.features.row_sink import ReadyRow, RowSink
from tbps_cli.features.rows import Box, Row, content_hash, encoded
from tbps_cli.features.store import FeatureFile
from tbps_cli.features.taken import time_changed, time_taken
from tbps_cli.footage.video import Frame, UnreadableVideo, is_video
from tbps_cli.searching.index_state import EVERY, DoneVideo, FootageSettings, IndexState, detector_key
from tbps_cli.searching.sources import Item

if TYPE_CHECKING:
    from tbps_cli.footage.detector import Detector
    from tbps_cli.footage.sightings import Sighting

logger = logging.getLogger("tbps")
SMALLEST = 8
"""Pixels on a side; a smaller crop shows nobody."""


@dataclass
class PersonReport:
    """What finding the persons of videos and frames took."""

    added: int = 0
    embedded: int = 0
    unusable: list[tuple[Item, UnreadableImage | UnreadableVideo]] = field(default_factory=list)
    found: dict[str, set[str]] = field(default_factory=dict)
    """File -> the paths of its rows, for files that were looked at this time."""


def embed_persons(
    encoder: ImageEncoder,
    items: Sequence[Item],
    file: FeatureFile,
    state: IndexState,
    footage: FootageSettings,
    *,
    batch: int,
    download: bool = False,
    progress: Progress | None = None,
    written: Callable[[], None] | None = None,
) -> PersonReport:
    """Bring the rows of persons in these files up to date.

    download: whether a detector's weights may be fetched. progress: called with (frames done, frames to do).
    written: called whenever new rows are in the index.
    Unreadable files are in the report. Raises CacheError when the index cannot be written.
    """
    report = PersonReport()
    if not items:
        return report
    there = set(coded(file.known().columns["source"])[0].tolist())
    # rows that are gone although they were written (a lost or rebuilt file) are made again
    todo = [
        item
        for item in items
        if not (state.is_done(item, footage) and (encoded(item.path) in there or not state.done[item.path].rows))
    ]
    if not todo:
        return report
    from tbps_cli.footage.detector import open_detector

    detector = open_detector(footage.detector, download=download)
    work = _Work(encoder, file, state, detector, footage, batch, written)
    frames = _Count(todo, work.every, progress)
    for item in todo:
        try:
            report.found[item.path] = work.index(item, frames)
        except (UnreadableImage, UnreadableVideo) as error:
            report.unusable.append((item, error))
        except OSError as error:
            reason = error.strerror or str(error)
            report.unusable.append((item, UnreadableImage(item.file, reason, lasting=False)))
    report.added, report.embedded = work.sink.added, work.sink.embedded
    return report


class _Count:
    """How many frames have been looked at, of how many there should be."""

    def __init__(self, items: Sequence[Item], every: float, progress: Progress | None) -> None:
        self.progress = progress
        self.done = 0
        self.total = sum(_frames_of(item, every) for item in items) if progress else 0

    def __call__(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(min(self.done, self.total), self.total)


def _frames_of(item: Item, every: float) -> int:
    """How many frames of a file will be looked at, as far as the file says how long it is."""
    if not is_video(item.file):
        return 1
    from tbps_cli.footage.frames import about

    try:
        return max(1, math.ceil((about(item.file).duration or 0) / every))
    except (UnreadableVideo, OSError):  # said when it is its turn
        return 1


class _Work:
    """Finds and embeds the persons of one file after another."""

    def __init__(
        self,
        encoder: ImageEncoder,
        file: FeatureFile,
        state: IndexState,
        detector: Detector,
        footage: FootageSettings,
        batch: int,
        written: Callable[[], None] | None,
    ) -> None:
        self.encoder, self.file, self.state, self.detector = encoder, file, state, detector
        self.every = footage.every or EVERY
        self.key = detector_key(footage.detector or detector.name)
        self.sink: RowSink[Embeddings] = RowSink(
            file, lambda arrays: encoder.image_arrays(np.stack(arrays)), batch, whole=False, written=written
        )

    def index(self, item: Item, frames: _Count) -> set[str]:
        """Bring one file up to date; returns the paths of its rows."""
        content, start = content_hash(item.file), _start_of(item)
        try:
            paths = self._renamed(item, content, start) or self._found(item, content, start, frames)
            self.sink.embed()
        finally:
            self.sink.flush()
        if self.file.unwritten:  # a full disk: what is only in memory is not done
            return paths
        known = item.facts
        done = DoneVideo(*item.found.state, content, self.every, self.key, rows=len(paths))
        self.state.finished(item.path, replace(done, camera=known.camera, time=known.time, person=known.person))
        return paths

    def _renamed(self, item: Item, content: str, start: datetime | None) -> set[str]:
        """The rows of a file that had another name, or of which something else was known; none for a new content."""
        same = (name for name, done in self.state.done.items() if self._is_same(done, content))
        old = next(same, None)
        if old is None:
            return set()
        paths, known = set(), self.file.known()
        for row in known.take(known.columns["source"] == encoded(old)):
            named = _named(item, row.seconds, row.box, start)
            new = replace(row, size=item.found.size, mtime=item.found.mtime, **named)
            if not self.sink.add(ReadyRow(new, None)):
                return set()  # another process has dropped it: the file is looked at after all
            paths.add(new.path)
        return paths

    def _is_same(self, done: DoneVideo, content: str) -> bool:
        return (done.content, done.every, done.detector) == (content, self.every, self.key)

    def _found(self, item: Item, content: str, start: datetime | None, frames: _Count) -> set[str]:
        """A row for each person in each frame that is looked at; returns their paths."""
        from tbps_cli.footage.sightings import sightings

        every = self.every if is_video(item.file) else None
        paths = set()
        for frame, found in sightings(item.file, detector=self.detector, every=every, content=content):
            frames()
            for sighting in found:
                if min(sighting.box[2:]) >= SMALLEST:
                    paths.add(self._add(item, frame, sighting, content, start))
        if not paths:
            logger.warning("%s: the detector %s found nobody in it.", item.file, self.detector.name)
        return paths

    def _add(self, item: Item, frame: Frame, sighting: Sighting, content: str, start: datetime | None) -> str:
        """Send one crop to the index; returns its path."""
        x, y, width, height = sighting.box
        named = _named(item, sighting.seconds, sighting.box, start)
        part = content_hash(f"{content}{named['path'][len(item.path) :]}".encode("utf-8", "surrogateescape"))
        found = Row("", *item.found.state, part)
        row = replace(found, track=sighting.track, detection=sighting.detection, **named)
        if not (self.sink.knows(part) and self.sink.add(ReadyRow(row, None))):
            self.sink.add(ReadyRow(row, self.encoder.transform(frame.image.crop((x, y, x + width, y + height)))))
        return row.path


def _named(item: Item, seconds: float | None, box: Box | None, start: datetime | None) -> dict[str, Any]:
    """The columns of a crop that follow from its file's name, and from when the file begins.

    The path is the file's with a media fragment (W3C): `street.mp4#t=12.480&xywh=120,80,40,96`.
    """
    place = "xywh=" + ",".join(map(str, box or ()))
    moment = "" if seconds is None else f"t={seconds:.3f}&"
    time = None if start is None else start + timedelta(seconds=round(seconds or 0.0, 3))
    return {
        "path": f"{item.path}#{moment}{place}",
        "source": item.path,
        "seconds": seconds,
        "box": box,
        "camera": item.facts.camera,
        "person": item.facts.person,
        "time": None if time is None else time.isoformat(timespec="milliseconds" if time.microsecond else "seconds"),
    }


def _start_of(item: Item) -> datetime | None:
    """When a video begins, or a frame was taken; None where nobody knows."""
    time = item.facts.time
    if time is None and is_video(item.file):
        from tbps_cli.footage.frames import about

        time = about(item.file).recorded
    elif time is None:
        time = time_taken(item.file.read_bytes()) or time_changed(item.file.stat().st_mtime_ns)
    try:
        start = None if time is None else datetime.fromisoformat(time)
        # videos state Universal Time; like the times of files it becomes that of this machine
        return start.astimezone().replace(tzinfo=None) if start and start.tzinfo else start
    except ValueError:
        return None
