"""Who is seen where in one file: frames at an interval, the persons in them, and which of these are the same.

What the detector found is kept in the cache, so that a run which was killed goes on where it was, and another interval
or another model looks at no frame twice. Frames and tracks are made again: they cost little beside a detector.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tbps_cli.data.images import read_image
from tbps_cli.footage.boxes import Box, Detection
from tbps_cli.footage.detector import Detector
from tbps_cli.footage.frames import about, frames
from tbps_cli.footage.seen import SeenFrames, make_room
from tbps_cli.footage.video import Frame, is_video

logger = logging.getLogger("tbps")

Progress = Callable[[float, float | None], None]
"""Seconds of a video that are done, and of the whole; None where the file does not say its length."""


class Sighting(NamedTuple):
    """A person in a frame: when (None in an image file), where, in which track, and how sure the detector is."""

    seconds: float | None
    box: Box
    track: str | None
    detection: float


def sightings(
    path: Path, *, detector: Detector, every: float | None, content: str, progress: Progress | None = None
) -> Iterator[tuple[Frame, list[Sighting]]]:
    """The frames of a video, or the one of an image file, with everybody in them, the surest first.

    every: seconds between frames; None for all frames of a video, and for images. content: hash of the file's bytes
    (`features.rows.content_hash`), under which detections are kept. A track is a name within this file.
    Raises UnreadableVideo and UnreadableImage.
    """
    if not is_video(path):
        whole = Frame(0.0, read_image(path))
        found = _found(SeenFrames(detector.fingerprint, content, video=False), content, whole, detector)
        yield whole, [Sighting(None, box, None, score) for box, score in found]
        return
    from tbps_cli.footage.tracks import Tracks

    video = about(path)
    make_room()
    seen = SeenFrames(detector.fingerprint, content, video=True)
    tracks = Tracks(every or 1 / (video.rate or 25.0))
    for frame in frames(path, every=every):
        found = _found(seen, f"{frame.seconds:.6f}", frame, detector)
        names = tracks.update(frame.seconds, frame.image, found)
        yield (
            frame,
            [Sighting(frame.seconds, box, name, score) for (box, score), name in zip(found, names, strict=True)],
        )
        if progress:
            progress(frame.seconds, video.duration)


def _found(seen: SeenFrames, key: str, frame: Frame, detector: Detector) -> list[Detection]:
    """What a detector finds in a frame, or found earlier."""
    known = seen.get(key)
    if known is None:
        known = detector(frame.image)
        seen.add(key, known)
    return known
