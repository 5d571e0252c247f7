"""When a photograph was taken, as its EXIF data say."""

from __future__ import annotations

import datetime
import io
import re

from PIL import Image

_EXIF, _TAKEN = 0x8769, 36867
"""Where EXIF has its own table, and in it the time of the photograph (DateTimeOriginal)."""
_TIME = re.compile(
    r"\s*(\d{4})[:/.-](\d{1,2})[:/.-](\d{1,2})[T ]\s*(\d{1,2}):(\d{2})(?::(\d{2}))?"
    r"(?:[.,]\d*)?\s*(?:Z|[+-]\d{2}:?\d{2})?[\s\0]*",
    re.IGNORECASE,
)
"""As the standard writes it (2019:05:06 07:08:09), and as cameras and programs do: with zeros behind it, fractions
of a second, a zone, or as ISO 8601 has it."""


def time_taken(content: bytes) -> str | None:
    """The time on the camera's clock to the second, as ISO 8601 without a zone; None where the file has none."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            stated = image.getexif().get_ifd(_EXIF).get(_TAKEN)
    except Exception:  # damaged metadata come in every form, and the image itself may be fine
        return None
    return parse_time(stated.decode("ascii", "replace") if isinstance(stated, bytes) else str(stated))


def parse_time(text: str) -> str | None:
    """A time as EXIF fields hold it -> ISO 8601; None for anything else, such as a clock that was never set."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups())
    try:
        return datetime.datetime(year, month, day, hour, minute, second).isoformat()
    except ValueError:
        return None


def time_changed(nanoseconds: int) -> str | None:
    """The time of a file's last change -> ISO 8601, local time; None where no calendar reaches."""
    try:
        return datetime.datetime.fromtimestamp(nanoseconds // 10**9).isoformat()
    except (ValueError, OverflowError, OSError):
        return None
