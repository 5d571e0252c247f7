"""Phrases of time in a sentence: days, times of day, ranges, and what "since", "until", "not" and "or" make of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta

from tbps_cli.asking.clocks import DAY, PART, Stretch, TimeOfDay, between, clock_at, part_of_day
from tbps_cli.asking.dates import Days, days_at
from tbps_cli.asking.lexicon import forms

AT = 15
"""Minutes before and after "at 5 pm"."""
ABOUT = 30
"""Minutes before and after "around 5 pm"."""

AFTER_MIDNIGHT, BEFORE_MIDNIGHT = Stretch(0, 6 * 60), Stretch(18 * 60, DAY)
_NAME = re.compile(r"noon|midday|midnight", re.IGNORECASE)
"""Without "at" they are often something else: midnight blue."""
_BLANK = re.compile(r"[\s,]*")
_JOIN = re.compile(r"\s*,?\s*(?:(?:at|on|of|in|from)\s+)?", re.IGNORECASE)
_START = re.compile(r"(?<![\w'’-])(?<!\d[:.,/])(?=[a-z\d])", re.IGNORECASE)
_SINCE = re.compile(r"(?P<since>since|after|later than|not before|not earlier than|not until)\s+", re.IGNORECASE)
_BEFORE = re.compile(r"(?P<before>before|until|till|up to|earlier than|not later than|not after)\s+", re.IGNORECASE)
_EXCEPT = re.compile(r"(?:\b(?:but|and)\s+)?\b(?:not|except(?:\s+for)?|excluding)\s+$", re.IGNORECASE)
_OR = re.compile(r"\s*(?:,\s*(?:or\s+|and\s+)?|\bor\s+|\band\s+)(?:on\s+)?", re.IGNORECASE)
_EVERY = re.compile(rf"(?:every|each)\s+(?:(?P<half>early|late)\s+)?(?P<part>{PART})(?![\w-])", re.IGNORECASE)
_ABOUT = re.compile(
    r"(?P<about>(?:at\s+)?(?:around|about|approximately|roughly|nearly|almost|circa|ca\.?))\s+|(?P<at>at)\s+(?:exactly\s+)?",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"(?P<between>between)\s+|(?P<from>from)\s+", re.IGNORECASE)
_AND = re.compile(r"\s*(?:\band\b|&|-|–|\bto\b)\s*", re.IGNORECASE)
_TO = re.compile(r"\s*(?:\bto\b|\buntil\b|\btill\b|\bthrough\b|-|–)\s*", re.IGNORECASE)
_ONWARDS = re.compile(r"\s+(?:on|onwards?)\b(?!\s+(?:the|cam|his|her|a)\b)", re.IGNORECASE)
_PART = re.compile(
    rf"(?:(?P<in>in|during|over|on)\s+the\s+(?:(?P<half>early|late)\s+)?(?P<part>{PART})|(?P<night>at night|by night)|"
    r"(?P<whole>during the day|by day))(?![\w-])",
    re.IGNORECASE,
)
_OF_DAY = re.compile(rf"\s+(?:in the\s+)?(?:(?P<half>early|late)\s+)?(?P<part>{PART})(?![\w-])", re.IGNORECASE)
_THIS = re.compile(
    rf"(?P<this>this|last|yesterday|tomorrow)\s+(?:(?P<half>early|late)\s+)?(?P<part>{PART})(?![\w-])|(?P<tonight>tonight)\b",
    re.IGNORECASE,
)
_WRITTEN = re.compile(
    r"\b(?:show(?:s|ing)|read(?:s|ing)|say(?:s|ing)|said|set (?:to|at)|display(?:s|ing)"
    r"|printed|written|titled|labell?ed|the words?)\s+[\"'“‘]?$",
    re.IGNORECASE,
)
"""A time behind it stands on a watch or a shirt."""
_NOT_A_TIME = re.compile(
    r"\s+(?:dress|gown|suit|wear|coat|sun|sunlight|light|rush|shift|rain|snow|best|clothes|outfit|school|league|market|paper"
    r"|shadow|sky|walk|jog|run|commute)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Moment:
    """Days, a time of day, or both, and where they end in the text."""

    end: int
    days: Days | None = None
    clock: TimeOfDay | None = None


@dataclass(frozen=True)
class When:
    """What one phrase says: days, a time of day (of these days or of every day), or a stretch with one end or two."""

    start: int
    end: int
    days: Days | None = None
    stretch: Stretch | None = None
    since: datetime | date | None = None
    until: datetime | date | None = None
    also: tuple[Stretch, ...] = ()
    """Further times of day that count as well: at 5 pm or 6 pm."""
    others: tuple[Days, ...] = ()
    """Further days that count as well: on Monday or Tuesday."""
    never: bool = False
    """Not then."""
    open_end: bool = False
    """`until` itself is left out."""
    after: bool = False
    """`since` itself is left out."""

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """All times of day of which one must be."""
        return (self.stretch, *self.also) if self.stretch else ()


def phrases(text: str, today: date) -> Iterator[When]:
    """The phrases of a sentence, from left to right."""
    at = 0
    for match in _START.finditer(text):
        if match.start() < at:
            continue
        when = _when(text, match.start(), today)
        if when is None or _NOT_A_TIME.match(text, when.end) or _names_clothes(text, when.end):
            continue
        if _WRITTEN.search(text, 0, match.start()):
            continue
        when = _with_others(text, when, today)
        refused = _EXCEPT.search(text, at, when.start)
        at = when.end
        yield replace(when, start=refused.start(), never=True) if refused else when


def _with_others(text: str, when: When, today: date) -> When:
    """The phrase with the days that "or", "and" or a comma add to its one day."""
    while when.days and not when.stretch and (joint := _OR.match(text, when.end)):
        days = days_at(text, joint.end(), today, bare=True)
        if days is None or _names_clothes(text, days.end) or clock_near(text, days.end):
            break
        when = replace(when, end=days.end, others=(*when.others, days))
    return when


def clock_near(text: str, place: int) -> bool:
    """Whether a time of day follows, which belongs to the day before it."""
    joint = _JOIN.match(text, place)
    return joint is not None and clock_at(text, joint.end()) is not None


def _names_clothes(text: str, place: int) -> bool:
    """Whether a garment follows at once: a "Monday shirt" is a shirt."""
    after = re.match(r"[ -]([a-z-]+)", text[place : place + 40], re.IGNORECASE)
    return after is not None and after[1].lower() in forms("things")


def _when(text: str, start: int, today: date) -> When | None:
    for read in (_range, _since, _until, _named_part, _day_and_time, _about, _part):
        found = read(text, start, today)
        if found is not None:
            return found
    return None


def _moment(text: str, place: int, today: date, *, bare: bool = False) -> Moment | None:
    """Days with a time of day, in either order, or one of them; bare: numbers and weekdays alone count."""
    days = days_at(text, place, today, bare=True)
    if days is not None:
        if text[days.end : days.end + 1] in ("T", "t") and (clock := clock_at(text, days.end + 1)):
            return Moment(clock.end, days, clock)
        joint = _JOIN.match(text, days.end)
        clock = clock_at(text, joint.end()) if joint and joint.end() > days.end and days.first == days.last else None
        return Moment(clock.end, days, clock) if clock else Moment(days.end, days) if bare or not days.bare else None
    clock = clock_at(text, place, bare=bare)
    if clock is None:
        return None
    joint = _JOIN.match(text, clock.end)
    days = days_at(text, joint.end(), today, bare=True) if joint and joint.end() > clock.end else None
    return Moment(days.end, days, clock) if days and days.first == days.last else Moment(clock.end, None, clock)


def _range(text: str, start: int, today: date) -> When | None:
    """between X and Y · from X to Y · X to Y, where both are of one kind."""
    opening = _BETWEEN.match(text, start)
    low = _moment(text, opening.end() if opening else start, today, bare=True)
    if low is None:
        return None
    joint = (_AND if opening and opening["between"] else _TO).match(text, low.end)
    high = _moment(text, joint.end(), today, bare=True) if joint else None
    if high is None:
        if opening and opening["from"] and low.clock and not low.clock.bare and (on := _ONWARDS.match(text, low.end)):
            return replace(_open(start, low, since=True), end=on.end())
        alone = opening and opening["from"] and low.days and not low.clock and not low.days.bare
        return When(start, low.end, days=low.days) if alone else None
    return _ranged(start, low, high, bool(opening))


def _ranged(start: int, low: Moment, high: Moment, opened: bool) -> When | None:
    if low.clock and high.clock:
        stretch = between(low.clock, high.clock)
        if stretch is None:
            return None
        if low.days is None and high.days is None:
            return When(start, high.end, stretch=stretch)
        if low.days is None or high.days is None or low.days.first == high.days.first:
            return When(start, high.end, days=low.days or high.days, stretch=stretch)
        since, until = at_minute(low.days.first, stretch.low), at_minute(high.days.first, stretch.high)
        return When(start, high.end, since=since, until=until, open_end=True) if since < until else None
    if (
        low.clock
        or high.clock
        or low.days is None
        or high.days is None
        or (not opened and low.days.bare != high.days.bare)
    ):
        return None
    first, last = low.days.first, high.days.last
    if low.days.bare and first > last:  # from Friday to Monday
        first -= timedelta(days=7)
    return When(start, high.end, days=Days(first, last, high.end)) if first <= last else None


def at_minute(day: date, minutes: float | None) -> datetime:
    return datetime.combine(day, time()) + timedelta(minutes=minutes or 0)


def _since(text: str, start: int, today: date) -> When | None:
    opening = _SINCE.match(text, start)
    moment = (
        _moment(text, opening.end(), today, bare=False) or _weekday(text, opening.end(), today) if opening else None
    )
    if opening is None or moment is None:
        return None
    when = _open(start, moment, since=True)
    return replace(when, after=opening["since"].lower() in ("after", "later than")) if moment.clock is None else when


def _until(text: str, start: int, today: date) -> When | None:
    opening = _BEFORE.match(text, start)
    moment = (
        _moment(text, opening.end(), today, bare=False) or _weekday(text, opening.end(), today) if opening else None
    )
    if opening is None or moment is None:
        return None
    when = _open(start, moment, since=False)
    included = opening["before"].lower() not in ("before", "earlier than")
    return replace(when, open_end=not included) if moment.clock is None else when


def _weekday(text: str, place: int, today: date) -> Moment | None:
    days = days_at(text, place, today, bare=True)
    return Moment(days.end, days) if days else None


def _open(start: int, moment: Moment, *, since: bool) -> When:
    """From a moment on, or up to it. "After 4 pm on Friday" ends with the day, "after Friday 4 pm" does not."""
    days, clock = moment.days, moment.clock
    if clock is not None and (days is None or clock.end < days.end):
        low, high = (clock.minutes, None) if since else (None, clock.minutes)
        stretch = Stretch(low, high) if clock.minutes else AFTER_MIDNIGHT if since else BEFORE_MIDNIGHT
        return When(start, moment.end, days, stretch)
    assert days is not None
    edge = (days.first if since else days.last) if clock is None else at_minute(days.first, clock.minutes)
    if since:
        return When(start, moment.end, since=edge)
    return When(start, moment.end, until=edge, open_end=clock is not None)


def _named_part(text: str, start: int, today: date) -> When | None:
    """this morning · last night · tonight · yesterday evening."""
    match = _THIS.match(text, start)
    if match is None or (match["this"] or "").lower() == "tomorrow":
        return None
    if match["tonight"]:
        return When(start, match.end(), Days(today, today, match.end()), Stretch(18 * 60, 6 * 60))
    last = match["this"].lower() != "this"
    day = today - timedelta(days=1) if last else today
    if more := _clock_after(text, match.end(), today):
        return When(start, more.end, Days(day, day, match.end()), more.stretch)
    stretch = part_of_day(match["part"], match["half"])
    if match["this"].lower() == "last" and match["part"].lower() == "night" and not match["half"]:
        stretch = Stretch(18 * 60, 6 * 60)  # people say "last night" for the evening too
    return When(start, match.end(), Days(day, day, match.end()), stretch)


def _day_and_time(text: str, start: int, today: date) -> When | None:
    """on Monday · Monday evening · yesterday at 5 pm · 5 pm yesterday."""
    days = days_at(text, start, today, bare=True)
    if days is None:
        moment = _moment(text, start, today)
        if moment is None or moment.clock is None or moment.days is None:
            return None
        return When(start, moment.end, moment.days, _around(moment.clock, AT))
    part = _OF_DAY.match(text, days.end)
    if part and days.first == days.last:
        more = _clock_after(text, part.end(), today)
        return (
            replace(more, start=start, days=days)
            if more
            else When(start, part.end(), days, part_of_day(part["part"], part["half"]))
        )
    place = _BLANK.match(text, days.end)
    assert place is not None
    near = _about(text, place.end(), today) if days.first == days.last else None
    if near is not None and near.days is None:
        return When(start, near.end, days, near.stretch)
    moment = _moment(text, start, today)
    if moment and moment.clock:
        return When(start, moment.end, moment.days, _around(moment.clock, AT))
    if days.bare:
        inner = _range(text, place.end(), today) or _since(text, place.end(), today) or _until(text, place.end(), today)
        return replace(inner, start=start, days=days) if inner and inner.stretch and not inner.days else None
    return When(start, days.end, days)


def _clock_after(text: str, place: int, today: date) -> When | None:
    """A time of day right behind a part of it: "Monday evening at 6 pm" says no more than "Monday at 6 pm"."""
    blank = _BLANK.match(text, place)
    readers = (_range, _since, _until, _about)
    found = [read(text, blank.end(), today) for read in readers] if blank and blank.end() > place else []
    return next((when for when in found if when and when.stretch and not when.days), None)


def _about(text: str, start: int, today: date) -> When | None:
    """at 5 pm · around 17:05 · 5 pm."""
    opening = _ABOUT.match(text, start)
    moment = _moment(text, opening.end() if opening else start, today)
    if moment is None or moment.clock is None or (opening is None and _NAME.match(text, start)):
        return None
    return When(start, moment.end, moment.days, _around(moment.clock, ABOUT if opening and opening["about"] else AT))


def _around(clock: TimeOfDay, minutes: int) -> Stretch:
    return Stretch((clock.minutes - minutes) % DAY, (clock.minutes + minutes) % DAY)


def _part(text: str, start: int, today: date) -> When | None:
    """in the afternoon · at night."""
    every = _EVERY.match(text, start)
    if every:
        return When(start, every.end(), stretch=part_of_day(every["part"], every["half"]))
    match = _PART.match(text, start)
    if match is None:
        return None
    if match["whole"]:
        return When(start, match.end(), stretch=Stretch(6 * 60, 22 * 60))
    stretch = part_of_day("night" if match["night"] else match["part"], match["half"])
    of = re.compile(r"\s+(?:of|on)\s+(?=\S)", re.IGNORECASE).match(text, match.end())
    days = days_at(text, of.end(), today, bare=True) if of else None
    if days is None:
        return None if (match["in"] or "").lower() == "on" else When(start, match.end(), stretch=stretch)
    return When(start, days.end, days, stretch)
