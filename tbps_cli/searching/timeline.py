"""When hits were seen, camera by camera, as lanes of marks on one clock: dates, or the time into a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

NARROWEST = 2.5
"""Width of a mark in per cent of the line: a moment is shown as long as a finger needs."""
ROW, GAP = 16, 4
"""Height of a mark and the space below it, in pixels."""
LANES = 24
"""More cameras than these have no lane of their own: the first hits do."""
_TICKS = 5
_SECOND, _MINUTE, _HOUR, _DAY = 1, 60, 3600, 86_400
_STEPS = (
    *(_SECOND * n for n in (1, 2, 5, 10, 15, 30)),
    *(_MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * n for n in (1, 2, 3, 6, 12)),
    *(_DAY * n for n in (1, 2, 7, 14, 30, 90, 365)),
)
_EPOCH = datetime(1970, 1, 1)


class Presence(NamedTuple):
    """A hit on the clock: in seconds since 1970 (local time, as cameras state it) or into the video."""

    place: int
    """In the answer, from 0."""
    rank: int
    lane: str
    start: float
    end: float


class Tick(NamedTuple):
    """A line across all lanes, at so many per cent of the width."""

    at: float
    text: str
    anchor: str


class Mark(NamedTuple):
    """A hit in its lane; `top` in pixels, `at` and `width` in per cent."""

    rank: int
    id: str
    kind: str
    said: str
    at: float
    width: float
    top: int


@dataclass
class Lane:
    """One camera's row of marks."""

    name: str
    marks: list[Mark] = field(default_factory=list)
    height: int = 0


@dataclass(frozen=True)
class TimeLine:
    """All lanes, and the ticks of the clock; `day`: the date, where all lies on one."""

    lanes: list[Lane]
    ticks: list[Tick]
    day: str


def seconds_of(time: str) -> float | None:
    """An ISO time as seconds on the clock of its camera; None for other texts."""
    try:
        return (datetime.fromisoformat(time).replace(tzinfo=None) - _EPOCH).total_seconds()
    except ValueError:
        return None


def clip_time(seconds: float) -> str:
    """Seconds into a video as 0:12.5 or 1:02:12.5."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{f'{hours}:{minutes:02d}' if hours else minutes}:{tenths // 10:02d}.{tenths % 10}"


def time_line(seen: Sequence[Presence], ids: Sequence[str], kinds: Sequence[str], *, dated: bool) -> TimeLine | None:
    """The lanes of these hits; None where there is nothing to compare.

    ids, kinds: of all places: what a mark leads to, and its class. dated: the clock is a calendar.
    """
    if len({one.start for one in seen}) < 2:
        return None
    low, high = min(one.start for one in seen), max(one.end for one in seen)
    margin = max(0.02 * (high - low), 0.5)
    low, high = low - margin if dated else max(0.0, low - margin), high + margin
    step = next((step for step in _STEPS if (high - low) / step <= _TICKS), _STEPS[-1])
    lanes: dict[str, Lane] = {}
    for one in sorted(seen, key=lambda one: one.rank):
        if one.lane in lanes or len(lanes) < LANES:
            lanes.setdefault(one.lane, Lane(one.lane))
    for one in sorted(seen, key=lambda one: (one.start, one.rank)):
        if lane := lanes.get(one.lane):
            at = 100 * (one.start - low) / (high - low)
            width = max(NARROWEST, 100 * (one.end - one.start) / (high - low))
            at = round(min(at, 100 - width), 3)
            said = f"{one.rank}: {_clock(one.start, 1, dated)}"
            top = _free_row(lane.marks, at)
            lane.marks.append(Mark(one.rank, ids[one.place], kinds[one.place], said, at, round(width, 3), top))
    for lane in lanes.values():
        lane.height = max(mark.top for mark in lane.marks) + ROW + GAP
    return TimeLine(list(lanes.values()), _ticks(low, high, step, dated), _day(low, high, dated))


def _free_row(marks: Sequence[Mark], at: float) -> int:
    """Where a mark that begins there overlaps none: its top in pixels."""
    ends: dict[int, float] = {}
    for mark in marks:
        ends[mark.top] = max(ends.get(mark.top, 0), mark.at + mark.width)
    top = GAP
    while ends.get(top, 0) > at:
        top += ROW + GAP
    return top


def _ticks(low: float, high: float, step: float, dated: bool) -> list[Tick]:
    first = -(-low // step) * step
    made = []
    for place in range(_TICKS + 1):
        if (when := first + place * step) <= high:
            at = round(100 * (when - low) / (high - low), 3)
            anchor = "start" if at < 5 else "end" if at > 95 else "middle"
            made.append(Tick(at, _clock(when, step, dated), anchor))
    return made


def _clock(when: float, step: float, dated: bool) -> str:
    """A point of the clock, as exactly as ticks of this distance need."""
    if not dated:
        return clip_time(when).removesuffix(".0")
    moment = _EPOCH + timedelta(seconds=when)
    if step >= _DAY:
        return f"{moment:%d %b %Y}" if step >= 30 * _DAY else f"{moment:%d %b}"
    return f"{moment:%H:%M:%S}" if step < _MINUTE else f"{moment:%H:%M}"


def _day(low: float, high: float, dated: bool) -> str:
    if not dated:
        return "time into the video"
    first, last = (_EPOCH + timedelta(seconds=when) for when in (low, high))
    return f"{first:%Y-%m-%d}" if first.date() == last.date() else f"{first:%Y-%m-%d} to {last:%m-%d}"
