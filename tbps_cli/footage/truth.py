"""Who truly is where in a video: the truth files of the drawn street, and `gt.txt` as the MOTChallenge has them.

MOTChallenge, https://motchallenge.net: a line is `frame,id,left,top,width,height,counts,class,visibility`, frames count
from 1; what does not count, and other classes than 1 (pedestrians), is neither asked for nor held against anybody.
"""

from __future__ import annotations

import csv
import json
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tbps_cli import files
from tbps_cli.errors import DataError
from tbps_cli.footage.boxes import Box

_HINT = "A truth file of the drawn street (docs/data.md), or gt.txt of the MOTChallenge."
_LARGEST_FILE = 1 << 28
_LONGEST = 10_000_000
_PEDESTRIAN = 1


class TrueBox(NamedTuple):
    """One person in one frame; counts: whether a detector is asked for it. visible: share that can be seen."""

    box: Box
    track: str
    visible: float
    counts: bool


class ClipTruth:
    """The boxes of a video's frames, by time."""

    def __init__(self, path: Path, boxes: dict[float, list[TrueBox]]) -> None:
        """boxes: by seconds into the video; a frame where nobody is has an empty list."""
        self.path = path
        self.boxes = boxes
        self._times = sorted(boxes)
        gaps = [after - before for before, after in zip(self._times, self._times[1:], strict=False)]
        self._slack = min(gaps, default=0.04) / 2

    def at(self, seconds: float) -> list[TrueBox] | None:
        """Who is there at a time; None where the file says nothing about that frame."""
        place = bisect_left(self._times, seconds)
        nearest = min(
            self._times[max(0, place - 1) : place + 1], key=lambda time: abs(time - seconds), default=math.inf
        )
        return self.boxes[nearest] if abs(nearest - seconds) < self._slack else None


def beside(clip: Path) -> Path | None:
    """The truth file that lies beside a clip: CLIP.json, or gt/gt.txt of a MOTChallenge folder."""
    places = clip.with_suffix(".json"), clip.parent / "gt" / "gt.txt"
    return next((place for place in places if place.is_file()), None)


def read_truth(path: Path, rate: float) -> ClipTruth:
    """Read a truth file; rate: frames a second of its video, for files that count frames. Raises DataError."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise DataError(f"{path} is too large for a truth file.", _HINT)
        text = path.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {files.reason(error)}.", _HINT) from None
    boxes = dict(_street(path, text)) if text.lstrip()[:1] in ("{", "[") else _challenge(path, text, rate)
    if not any(boxes.values()):
        raise DataError(f"{path} names nobody.", _HINT)
    return ClipTruth(path, boxes)


def _street(path: Path, text: str) -> Iterator[tuple[float, list[TrueBox]]]:
    """The frames of a JSON file."""
    try:
        frames = json.loads(text)["frames"]
        if not isinstance(frames, list):
            raise TypeError("its `frames` are no list")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{path} is no truth file: {_said(error)}.", _HINT) from None
    for number, frame in enumerate(frames):
        try:
            yield float(frame["seconds"]), [_box(entry) for entry in frame["boxes"]]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}: frame {number}: {_said(error)}.", _HINT) from None


def _box(entry: dict[str, Any]) -> TrueBox:
    return TrueBox(_whole(entry["box"]), str(entry["track"]), float(entry.get("visible", 1.0)), True)


def _challenge(path: Path, text: str, rate: float) -> dict[float, list[TrueBox]]:
    """The frames of a MOTChallenge file; frames up to the last that it names, without anybody, are empty."""
    boxes: dict[int, list[TrueBox]] = {}
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        if not row:
            continue
        try:
            if len(row) < 6:
                raise ValueError(f"{len(row)} fields instead of at least 6")
            frame = int(row[0])
            if not 1 <= frame <= _LONGEST:
                raise ValueError(f"frame {frame} is outside 1 to {_LONGEST:,}")
            counts = len(row) < 7 or float(row[6]) != 0
            # 9 fields: with class and visibility; 10 are those of 2015, with a place in the world instead
            classed = len(row) == 9
            counts = counts and (not classed or int(float(row[7])) == _PEDESTRIAN)
            visible = float(row[8]) if classed else 1.0
            boxes.setdefault(frame, []).append(TrueBox(_whole(row[2:6]), row[1].strip(), visible, counts))
        except ValueError as error:
            raise DataError(f"{path}:{number}: {_said(error)}.", _HINT) from None
    return {(frame - 1) / rate: boxes.get(frame, []) for frame in range(1, max(boxes, default=0) + 1)}


def _whole(values: Sequence[Any]) -> Box:
    x, y, width, height = (float(value) for value in values)
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise ValueError(f"{list(values)} is no box (x, y, width, height)")
    return round(x), round(y), max(1, round(width)), max(1, round(height))


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
