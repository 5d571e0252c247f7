"""Times in filters: what people write, spelt as the texts that galleries keep.

A gallery keeps `2026-01-31T18:05:00`; its beginning (2026, 2026-01, 2026-01-31, ...T18, ...T18:05) stands for the
whole year, month, day, hour or minute. Times of day are 18:05:00 and its beginnings.
"""

from __future__ import annotations

import re
from datetime import datetime

_DAY = re.compile(
    r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:[T ](\d{1,2})(?::(\d{2})(?::(\d{2})(\.\d+)?)?)?)?)?)?", re.ASCII
)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2})(?::(\d{2})(\.\d+)?)?)?", re.ASCII)
_OTHER_ORDER = re.compile(r"\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{4}[./]\d{1,2}[./]\d{1,2}", re.ASCII)


def moment(text: str) -> str | None:
    """A time or its beginning, digits filled up: `2026-1-31 8:05` -> `2026-01-31T08:05`; None if it is none.

    Raises ValueError for a day or an hour that does not exist.
    """
    match = _DAY.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, rest = match.groups()
    datetime(int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0))
    date = "-".join([year, *(f"{int(part):02d}" for part in (month, day) if part)])
    return date + (f"T{_clock(hour, minute, second, rest)}" if hour else "")


def clock(text: str) -> str | None:
    """A time of day or its beginning: `8:05` -> `08:05`; None if it is none. 24:00 is the end of the day."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    hour, minute, second, rest = match.groups()
    if (int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 59) and text not in ("24", "24:00"):
        return None
    return _clock(hour, minute, second, rest)


def other_order(text: str) -> bool:
    """Whether a text is a date in an order that could not be compared: 31.01.2026, 1/31/2026, 2026/01/31."""
    return _OTHER_ORDER.match(text) is not None


def _clock(hour: str, minute: str | None, second: str | None, rest: str | None) -> str:
    return ":".join([f"{int(hour):02d}", *(part for part in (minute, second) if part)]) + (rest or "")
