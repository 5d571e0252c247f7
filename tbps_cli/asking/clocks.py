"""Times of day as people say them: `5 pm`, `17:05`, `half past six in the evening`, `noon`, `in the late afternoon`.

A number alone is never a time; it becomes one between two ends of a range, the other of which says am, pm or minutes
(`between 5 and 6 pm`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tbps_cli.asking.counts import NUMBERS

DAY = 24 * 60
"""Minutes."""
PARTS = {
    "morning": (6 * 60, 12 * 60),
    "afternoon": (12 * 60, 18 * 60),
    "evening": (17 * 60, 22 * 60),
    "night": (22 * 60, 6 * 60),
}
"""From minute to minute of the day; the night goes over midnight."""
PART = "morning|afternoon|evening|night"
_HOURS = "|".join(word for word, number in NUMBERS.items() if 1 <= number <= 12)
_HALF = r"(?:\s*(?P<half>[ap])(?:\.\s?m\.?|m)(?![\w-])|\s+(?:in the|at)\s+(?P<part>morning|afternoon|evening|night)\b)"
_CLOCKS = tuple(
    re.compile(expression, re.IGNORECASE)
    for expression in (
        rf"(?P<past>half past|(?:a )?quarter (?:past|to))\s+(?P<hour>\d{{1,2}}|{_HOURS})\b(?:\s+o'clock)?{_HALF}?",
        rf"(?P<minute>[1-5]?\d|five|ten|twenty|twenty[- ]five)\s+past\s+(?P<hour>\d{{1,2}}|{_HOURS}){_HALF}",
        rf"(?P<hour>\d{{1,2}}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?![\d:/]|-(?!\d))(?:\s*(?:h|hrs|hours|o'clock)\b)?{_HALF}?",
        rf"(?P<hour>\d{{1,2}})[.](?P<minute>[0-5]\d){_HALF}",
        rf"(?P<hour>\d{{1,2}}|{_HOURS})(?:\s+o'clock)?{_HALF}",
        r"(?P<hour>[01]\d|2[0-3])(?P<minute>[0-5]\d)\s?(?:h|hrs|hours)\b",
        r"(?P<hour>\d{1,2})\s?h(?P<minute>[0-5]\d)?(?![\w-])",
        r"(?P<hour>1[3-9]|2[0-4])\s+o'clock\b",
        r"(?P<noon>noon|midday|midnight)\b",
    )
)
_BARE = re.compile(rf"(?P<hour>\d{{1,2}}|{_HOURS})(?![\w:%/'’]|\.\d|-(?!\d))(?:\s+o'clock)?", re.IGNORECASE)


@dataclass(frozen=True)
class TimeOfDay:
    """A time of day in minutes (a bare number not yet in the right half of the day), and where it ends in the text."""

    minutes: float
    end: int
    bare: bool = False
    """Said without its half of the day, so that alone it is no time: 5, half past five."""
    vague: bool = False
    """5:30, which is in the morning unless the other end of a range says pm."""
    halved: bool = False
    """Said with its half of the day."""


@dataclass(frozen=True)
class Stretch:
    """From one minute of the day to another; over midnight where the second is not later. None: no end."""

    low: float | None
    high: float | None

    @property
    def wraps(self) -> bool:
        """Whether it goes over midnight."""
        return self.low is not None and self.high is not None and self.high <= self.low

    def meets(self, other: Stretch) -> bool:
        """Whether a time of day is in both."""
        pairs = ((one, two) for one in self._pieces for two in other._pieces)
        return any(one[0] < two[1] and two[0] < one[1] for one, two in pairs)

    def holds(self, minutes: float) -> bool:
        """Whether a time of day is in it."""
        return any(low <= minutes < high for low, high in self._pieces)

    @property
    def _pieces(self) -> tuple[tuple[float, float], ...]:
        low, high = self.low or 0, DAY if self.high is None else self.high
        return ((low, DAY), (0, high)) if self.wraps else ((low, high),)

    def __str__(self) -> str:
        if self.low is None:
            return f"before {spelt(self.high or 0)}"
        return f"after {spelt(self.low)}" if self.high is None else f"from {spelt(self.low)} to {spelt(self.high)}"


def spelt(minutes: float) -> str:
    """17:05, and 17:05:20 where there are seconds."""
    seconds = round(60 * minutes)
    whole = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}"
    return f"{whole}:{seconds % 60:02d}" if seconds % 60 else whole


def clock_at(text: str, place: int, *, bare: bool = False) -> TimeOfDay | None:
    """The time of day that begins there; bare: a number alone counts too."""
    for expression in _CLOCKS:
        match = expression.match(text, place)
        found = _clock(match.groupdict(), match.end()) if match else None
        if found is not None and (bare or not found.bare):
            return found
    match = _BARE.match(text, place) if bare else None
    if match is None or (hour := _number(match["hour"])) > 24:
        return None
    return TimeOfDay(hour * 60, match.end(), bare=True)


def _number(text: str) -> int:
    if text.lower().startswith("twenty") and len(text) > len("twenty"):
        return 25
    return NUMBERS.get(text.lower(), 0) or int(text)


def _clock(said: dict[str, str | None], end: int) -> TimeOfDay | None:
    if noon := said.get("noon"):
        return TimeOfDay(0 if noon.lower() == "midnight" else DAY // 2, end, halved=True)
    hour, minute = _number(said["hour"] or "0"), _number(said.get("minute") or "0")
    past = (said.get("past") or "").lower()
    minute += 30 if "half" in past else 15 if "quarter past" in past else -15 if past else 0
    half = said.get("half") or _half_of_part(said.get("part"), hour)
    if past and half is None:  # half past five: in which half of the day?
        return TimeOfDay(hour * 60 + minute, end, bare=True) if 1 <= hour <= 12 else None
    if half and not 1 <= hour <= 12 and not (said.get("minute") and hour < 24):
        return None
    if hour > 24 or (hour == 24 and minute):
        return None
    if half and hour <= 12:
        hour = hour % 12 + (12 if half.lower() == "p" else 0)
    vague = half is None and 1 <= hour <= 12 and said.get("minute") is not None
    at = (hour * 60 + minute) % (DAY + 1) + int(said.get("second") or 0) / 60
    return TimeOfDay(at, end, vague=vague, halved=half is not None)


def _half_of_part(part: str | None, hour: int) -> str | None:
    """Two at night is in the first half of the day, eleven at night in the second."""
    if part is None:
        return None
    return "a" if part.lower() == "morning" or (part.lower() == "night" and (hour < 6 or hour == 12)) else "p"


def between(low: TimeOfDay, high: TimeOfDay) -> Stretch | None:
    """A range of two clocks. What lacks its half of the day gets the one that is nearest to the other end, if that says
    it; else it counts as written, from 0 to 24. None: both are bare.
    """
    if low.bare and high.bare:
        return None
    first, last = low.minutes, high.minutes
    if (low.bare or low.vague) and high.halved:
        first = min(_halves(first), key=lambda at: (last - at) % DAY or DAY)
    if (high.bare or high.vague) and low.halved:
        last = min(_halves(last), key=lambda at: (at - first) % DAY or DAY)
    return Stretch(first % DAY, last % DAY)


def _halves(minutes: float) -> tuple[float, ...]:
    """What a bare hour can be; above 12 it is itself."""
    return (minutes,) if minutes > DAY // 2 else (minutes % (DAY // 2), minutes % (DAY // 2) + DAY // 2)


def part_of_day(name: str, early_or_late: str | None) -> Stretch:
    """A part of the day, or its first or second half."""
    low, high = PARTS[name.lower()]
    middle = low + ((high - low) % DAY) // 2
    which = (early_or_late or "").lower()
    return Stretch(middle % DAY if which == "late" else low, middle % DAY if which == "early" else high)
