"""The pixels of a person, cut from a video or an image when somebody wants to see them.

Nothing is stored beside the user's files: the frame is decoded again, and the same box gives the same pixels as those
that were embedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from tbps_cli.data.images import read_image
from tbps_cli.errors import DataError
from tbps_cli.footage.boxes import Box
from tbps_cli.footage.frames import frames_at
from tbps_cli.footage.video import Frame, UnreadableVideo

_FRAMES = 4
"""Decoded frames that are kept: the hits of one moment come one after another."""


def cut(image: Image.Image, box: Box | None) -> Image.Image:
    """The part of a frame inside a box; the whole frame where there is none. Raises DataError for a box outside it."""
    if box is None:
        return image
    left, top, width, height = box
    if left < 0 or top < 0 or width < 1 or height < 1 or left + width > image.width or top + height > image.height:
        raise DataError(f"the box {left},{top},{width},{height} is not inside {image.width} x {image.height} pixels.")
    return image.crop((left, top, left + width, top + height))


def crop(path: Path, seconds: float | None, box: Box | None) -> Image.Image:
    """What a box shows. seconds: into a video; None for an image file. Raises UnreadableVideo and UnreadableImage."""
    if seconds is None:
        return cut(read_image(path), box)
    try:
        state = path.stat()
    except OSError as error:
        raise UnreadableVideo(path, (error.strerror or str(error)).lower(), lasting=False) from None
    return cut(_frame(path, seconds, state.st_size, state.st_mtime_ns).image, box)


def crops(path: Path, wanted: Sequence[tuple[float | None, Box | None]]) -> list[Image.Image]:
    """What many boxes of one file show, in the order asked for; the file is read once, forwards."""
    if any(seconds is None for seconds, _ in wanted):
        image = read_image(path)
        return [cut(image, box) for _, box in wanted]
    found: dict[int, Image.Image] = {}
    times = [seconds for seconds, _ in wanted if seconds is not None]
    order = sorted(range(len(wanted)), key=times.__getitem__)
    waiting = iter(frames_at(path, times))
    frame: Frame | None = None
    last: float | None = None
    for place in order:
        if times[place] != last:
            frame, last = next(waiting), times[place]
        assert frame is not None
        found[place] = cut(frame.image, wanted[place][1])
    return [found[place] for place in range(len(wanted))]


@lru_cache(maxsize=_FRAMES)
def _frame(path: Path, seconds: float, size: int, changed: int) -> Frame:
    """size, changed: what tells one state of the file from the next."""
    return next(frames_at(path, [seconds]))
