"""Frames of a video at an interval, upright and with their true times, through PyAV (FFmpeg's libraries).

Each stretch of the interval gives the first frame in it, and decoding begins at the last key frame before it, so that
the frames between are not decoded. Where key frames are no further apart than the interval, each stretch gives its
first key frame instead, which costs next to nothing. What a damaged or cut-off file still holds is given, with one
line in the log.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_cli.footage.video import Frame, UnreadableVideo, Video

if TYPE_CHECKING:
    from tbps_cli.footage.reading import OpenVideo, Timed

_SAME = 0.0006
"""Seconds; times are kept to a thousandth in paths such as `street.mp4#t=12.480`."""
_LATE = 0.5
"""Seconds by which a key frame may be shown before the time that an index has for it."""
_ROUNDING = 1e-6
"""Seconds by which a time may miss the multiple of the interval that it stands for."""


def about(path: Path) -> Video:
    """What a video says of itself. Its first frame is decoded. Raises UnreadableVideo."""
    from tbps_cli.footage.reading import opened

    with opened(path) as source:
        first = next(source.decoded(), None)
        if first is None:
            raise UnreadableVideo(path, "it holds no frame that can be decoded")
        width, height = source.shown(first.frame).size
        codec = source.stream.codec_context.name
        return Video(width, height, source.duration, source.rate, source.recorded, codec)


def frames(path: Path, *, every: float | None = None, start: float = 0.0) -> Iterator[Frame]:
    """The frames of a video in the order in which they are shown, each upright and in RGB.

    every: seconds between frames; None gives all. start: seconds; frames before it are left out.
    Raises UnreadableVideo, also for a video without a single frame.
    """
    from tbps_cli.footage.reading import opened

    if every is not None and not 0 < every < math.inf:
        raise ValueError(f"every must be above 0, not {every}")
    with opened(path) as source:
        any_frame = start > 0
        by_keys = every is not None and _keys_suffice(source, every)
        for timed in _key_frames(source, every, start) if every and by_keys else _sampled(source, every, start):
            any_frame = True
            yield Frame(timed.seconds, source.shown(timed.frame))
        if not any_frame:
            raise UnreadableVideo(path, "it holds no frame that can be decoded")
        source.tell(slack=2 * every + 1 if every and by_keys else 1.0)


def frames_at(path: Path, seconds: Sequence[float]) -> Iterator[Frame]:
    """The frames at times that `frames` gave, in rising order; equal times give one frame.

    Raises UnreadableVideo when the file has no frame at one of them.
    """
    from tbps_cli.footage.reading import opened

    with opened(path) as source:
        walk = _Walk(source)
        for wanted in sorted(set(seconds)):
            timed = walk.first_from(wanted - _SAME)
            if timed is None or timed.seconds > wanted + _SAME:
                raise UnreadableVideo(path, f"it has no frame at {wanted:.3f} s")
            yield Frame(timed.seconds, source.shown(timed.frame))


def _keys_suffice(source: OpenVideo, every: float) -> bool:
    return len(source.keys) > 2 and max(b - a for a, b in pairwise(source.keys)) <= every + _ROUNDING


def _key_frames(source: OpenVideo, every: float, start: float) -> Iterator[Timed]:
    """The first key frame of each stretch; from where one cannot be found, the first frame of each."""
    stretch, last = -1, -1.0
    for key in source.keys:
        if key < start or _stretch(key, every) <= stretch:
            continue
        stretch = _stretch(key, every)
        timed = next((timed for timed in source.decoded(key) if timed.frame.key_frame), None)
        if timed is None or timed.seconds < key - _LATE:
            rest = _sampled(source, every, max(start, stretch * every))
            yield from (timed for timed in rest if timed.seconds > last)
            return
        if timed.seconds > last:
            last = timed.seconds
            yield timed


def _sampled(source: OpenVideo, every: float | None, start: float) -> Iterator[Timed]:
    """The first frame of each stretch; all frames where there is no interval."""
    if every is None:
        yield from (timed for timed in source.decoded() if timed.seconds >= start)
        return
    walk = _Walk(source)
    timed = walk.first_from(start)
    while timed is not None:
        yield timed
        following = (_stretch(timed.seconds, every) + 1) * every - _ROUNDING
        timed = walk.first_from(max(following, timed.seconds + _ROUNDING))  # an interval may be shorter than a frame


def _stretch(seconds: float, every: float) -> int:
    return math.floor((seconds + _ROUNDING) / every)


class _Walk:
    """Goes forward through a video from one wanted time to the next, over key frames where that saves decoding."""

    def __init__(self, source: OpenVideo) -> None:
        self.source = source
        self._rest: Iterator[Timed] = source.decoded()
        self._last: Timed | None = None

    def first_from(self, wanted: float) -> Timed | None:
        """The first frame that is shown at `wanted` or later, and not before the last one that was given."""
        here = 0.0 if self._last is None else self._last.seconds
        if self._last is not None and here >= wanted:
            return self._last
        if self.source.key_before(wanted) > here:
            self._last = self._from_key(wanted)
        else:
            self._last = next((timed for timed in self._rest if timed.seconds >= wanted), None)
        return self._last

    def _from_key(self, wanted: float) -> Timed | None:
        """Begin at the last key frame before `wanted`; where that turns out to be shown later, at an earlier one.

        An index has frames in the order in which they are decoded, which is not the order in which they are shown; and
        frames between a key frame and those before it that they need come out damaged. So the key frame itself must be
        shown before `wanted`.
        """
        last = bisect_right(self.source.keys, wanted) - 1
        for key in (*reversed(self.source.keys[max(0, last - 2) : last + 1]), None):
            rest = self.source.decoded(key)
            first = next((timed for timed in rest if key is None or timed.frame.key_frame), None)
            if first is not None and (first.seconds <= wanted or key is None):
                self._rest = rest
                return first if first.seconds >= wanted else next((t for t in rest if t.seconds >= wanted), None)
        return None
