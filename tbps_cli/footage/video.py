"""What a video is by its name, what a file says of itself, and the error for one that cannot be used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tbps_cli.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".ogv"),
        *(".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".dav"),
        *(".h264", ".264", ".h265", ".265", ".hevc", ".mjpeg", ".mjpg", ".y4m"),
    )
)
"""How the names of videos end."""


class UnreadableVideo(DataError):
    """A video that cannot be used; `path` and `reason` are for counting and listing.

    lasting: whether the file must change before it is worth trying again (not so when the disk failed).
    """

    def __init__(self, path: Path | str, reason: str, lasting: bool = True) -> None:
        super().__init__(
            f"{path} cannot be read as a video: {reason}.",
            "Fetch the file again, or convert it: ffmpeg -i FILE new.mp4",
        )
        self.path = Path(path)
        self.reason = reason
        self.lasting = lasting

    def __reduce__(self) -> tuple[type[UnreadableVideo], tuple[Path, str, bool]]:
        return type(self), (self.path, self.reason, self.lasting)


class Frame(NamedTuple):
    """One frame: seconds into the video (0.0 for an image file), and its pixels, upright, in RGB."""

    seconds: float
    image: Image.Image


@dataclass(frozen=True)
class Video:
    """What a file says of itself: size as shown, upright; duration in seconds, frames a second, when it was recorded.

    recorded: ISO 8601, with its zone where it has one; None where the container does not say it.
    """

    width: int
    height: int
    duration: float | None
    rate: float | None
    recorded: str | None
    codec: str


def is_video(path: Path | str) -> bool:
    """Whether a file is a video by its name."""
    return os.path.splitext(path)[1].lower() in SUFFIXES  # noqa: PTH122 - called for every file of a folder
