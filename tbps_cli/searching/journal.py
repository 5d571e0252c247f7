"""The alerts of standing questions, each exactly once, and what has been judged already; both outlive a kill.

The journal is a file of JSON lines that anybody may read. An alert is told when its line is on the disk: lines are
appended under a lock, after those of other watchers have been read, and a line of the same query and image, or of the
same query and track, is not written again. What was judged is kept beside it: the rows' contents, noted after the
alerts that came of them. Killed between the two, a watcher judges them again, and the journal keeps it from telling
them again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli import files
from tbps_cli.errors import CacheError
from tbps_cli.escape import exact_bytes, json_text
from tbps_cli.features.rows import Rows
from tbps_cli.searching.line_log import append_bytes, append_lines
from tbps_cli.types import Hit

try:
    import fcntl
except ImportError:  # Windows: one watcher a journal
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("tbps")
DIGITS = 6


@dataclass(frozen=True)
class Alert:
    """One hit of a standing question."""

    query: str
    hit: Hit
    threshold: float
    """The score that it is above."""
    share: float | None
    """Which share of the arrivals scores as high; None where no population says it."""
    a_day: float | None
    """How many of them that are in a day."""
    moment: float
    """When it was seen, in seconds since 1970 of the cameras' clock; where nobody knows, when it was found."""
    found: str
    """When it was found."""
    place: str | None
    """What shares a cool-down: the camera, or the video; None: nothing does."""

    @property
    def id(self) -> str:
        """The same for the same query and image."""
        return blake2b(f"{self.query}\0{self.hit.path}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def document(self) -> dict[str, Any]:
        """The line of the journal."""
        hit = self.hit
        known = {
            "camera": hit.camera,
            "time": hit.time,
            "source": hit.source,
            "seconds": hit.seconds,
            "box": hit.box,
            "track": hit.track,
            "detection": None if hit.detection is None else round(hit.detection, 4),
            "person": hit.person,
            "share": self.share,
            "a_day": self.a_day,
            "place": self.place,
        }
        return {
            "id": self.id,
            "found": self.found,
            "query": self.query,
            "path": hit.path,
            "file": str(hit.file.absolute()),
            "score": round(hit.score, DIGITS),
            "threshold": round(self.threshold, DIGITS),
            **{key: value for key, value in known.items() if value is not None},
            "moment": round(self.moment, 3),
        }


@dataclass
class _Told:
    """What the journal has been seen to hold."""

    ids: set[str] = field(default_factory=set)
    tracks: set[tuple[str, ...]] = field(default_factory=set)
    """Query, source, camera and track."""
    moments: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, line: dict[str, Any]) -> None:
        query = str(line["query"])
        self.ids.add(str(line["id"]))
        if line.get("track") is not None:
            self.tracks.add((query, str(line.get("source")), str(line.get("camera")), str(line["track"])))
        if line.get("place") is not None:
            self.moments.setdefault((query, str(line["place"])), []).append(float(line["moment"]))

    def repeats(self, alert: Alert, cool_down: float) -> bool:
        hit = alert.hit
        if alert.id in self.ids:
            return True
        if hit.track is not None and (alert.query, str(hit.source), str(hit.camera), hit.track) in self.tracks:
            return True
        before = self.moments.get((alert.query, alert.place), []) if alert.place is not None else []
        return any(abs(alert.moment - moment) < cool_down for moment in before)


class Journal:
    """The file of alerts. Several watchers may share one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._told = _Told()
        self._read, self._file = 0, (0, 0)

    def check(self) -> None:
        """Read what is there. Raises CacheError unless a line could be written now."""
        with self._opened() as handle:
            self._read_on(handle)

    @property
    def told(self) -> int:
        """How many alerts it holds, as far as it was read."""
        return len(self._told.ids)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Its alerts, in order."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            yield from filter(None, map(_line, file))

    def append(self, alerts: Sequence[Alert], cool_down: float = 0.0, **more: Any) -> list[Alert]:
        """Write those that have not been told, all or none, on the disk before this returns; returns them.

        cool_down: seconds before and after an alert in which the same query is not told of the same place again.
        more: what each line says besides. Raises CacheError.
        """
        if not alerts:
            return []
        with self._opened() as handle:
            self._read_on(handle)
            new, lines = [], []
            for alert in alerts:
                if not self._told.repeats(alert, cool_down):
                    line = alert.document() | more
                    self._told.add(line)
                    new.append(alert)
                    lines.append(line)
            try:
                text = "".join(json_text(line, indent=None) + "\n" for line in lines)
                self._read += append_lines(handle, exact_bytes(text)) if text else 0
            except OSError:
                self._file = (0, 0)  # what was taken for told is not: read again
                raise
        return new

    def _read_on(self, handle: int) -> None:
        """Take up the lines that were added since, by whomever; of a file that is another now, all."""
        state = os.fstat(handle)
        if (state.st_dev, state.st_ino) != self._file or state.st_size < self._read:
            known, self._told = self._told, _Told()
            if self._file != (0, 0):  # a new file, since the old one was moved away: what that one held stays told
                self._told = known
            self._file, self._read = (state.st_dev, state.st_ino), 0
        while block := os.pread(handle, max(1, os.fstat(handle).st_size - self._read), self._read):
            self._read += len(block)
            for line in filter(None, map(_line, block.split(b"\n"))):
                self._told.add(line)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The file for appending, locked; made where it is missing, readable by its owner alone."""
        with files.explained(f"--jsonl {self.path}", CacheError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = _locked(self.path)
            try:
                yield handle
            finally:
                os.close(handle)


def _line(text: bytes) -> dict[str, Any] | None:
    """An alert; None for anything else, such as half a line that a kill left."""
    try:
        found = json.loads(text)
        if isinstance(found, dict) and {"id", "query", "path"} <= found.keys():
            float(found.get("moment", 0))
            return {"moment": 0.0, **found}
    except (ValueError, TypeError, RecursionError):
        pass
    return None


def _locked(path: Path) -> int:
    """The file of this name, open and locked; one that was moved away while we waited is let go."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        if fcntl is None:
            return handle
        with suppress(OSError):  # a disk without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)


# What has been judged -------------------------------------------------------------------------

_RECORD = np.dtype([("key", "<u8"), ("arrived", "<f8")])


class JudgedRows:
    """Which rows one query has been asked of: by their content, so that a moved file is not judged again.

    A file of records of 16 bytes: a hash, and when the row arrived (0: it was there from the start). When a query is
    asked for the first time, the files that are there by then are noted by name, size and time of change, before
    anything of them is embedded: they are the population, and all others are judged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrived: dict[int, float] = {}
        self._order: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.fresh = not self._load()

    def begin(self, present: Sequence[tuple[str, int, int]]) -> None:
        """Note the files (name, size, time of change) that are there when the query is asked for the first time."""
        self._note({_hashed(*one): 0.0 for one in present})

    def new(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of these rows have not been judged."""
        key_G = content_keys(rows)
        new_G: NDArray[np.bool_] = ~np.isin(key_G, self._keys())
        places = np.flatnonzero(new_G)
        for place, row in zip(places.tolist(), rows.take(places), strict=True):
            name = row.source or (row.path.rpartition("#")[0] if row.box else row.path)
            if _hashed(name, row.size, row.mtime) in self._arrived:
                new_G[place] = False
        return new_G

    def add(self, rows: Rows, arrived: float) -> None:
        """Note rows as judged. Raises CacheError when that cannot be written; then they are not."""
        new = {key: arrived for key in content_keys(rows).tolist() if key not in self._arrived}
        if new:
            self._note(new)

    def arrived(self, rows: Rows) -> NDArray[np.float64]:
        """When each of these rows arrived, in seconds since 1970; NaN for those that were there from the start."""
        found = [self._arrived.get(key, 0.0) for key in content_keys(rows).tolist()]
        return np.array([moment or np.nan for moment in found], np.float64)

    def _keys(self) -> NDArray[np.uint64]:
        if len(self._order) != len(self._arrived):
            self._order = np.fromiter(self._arrived, np.uint64, len(self._arrived))
        return self._order

    def _load(self) -> bool:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise CacheError(f"{self.path} cannot be read: {files.reason(error)}.") from error
        found = np.frombuffer(data[: len(data) // _RECORD.itemsize * _RECORD.itemsize], _RECORD)
        self._arrived = dict(zip(found["key"].tolist(), found["arrived"].tolist(), strict=True))
        return True

    def _note(self, new: Mapping[int, float]) -> None:
        with files.explained(self.path, CacheError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = _locked(self.path)
            try:
                size = os.fstat(handle).st_size
                entries = dict(new) if size else {**self._arrived, **new}  # somebody may have removed the file
                data = np.array(list(entries.items()), _RECORD).tobytes()
                append_bytes(handle, bytes(-size % _RECORD.itemsize) + data)  # a kill may have left part of a record
            finally:
                os.close(handle)
        self._arrived |= new


def content_keys(rows: Rows) -> NDArray[np.uint64]:
    """The first 64 bits of each row's content."""
    column = rows.columns["content"].astype("S16")
    if len(column) and (np.char.str_len(column) == 16).all():
        with suppress(ValueError):
            return np.frombuffer(bytes.fromhex(column.tobytes().decode("ascii", "replace")), ">u8").astype(np.uint64)
    return np.array([_hashed(path) for path in rows.paths], np.uint64)


def _hashed(*parts: object) -> int:
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
