"""When somebody was seen: the days and times of day of a question, as conditions on `time` and `clock`.

A time of day without a day means that time on every day. With one day it becomes one stretch of time, which may reach
into the next morning. "At" and "around" a time mean a stretch about it, since nobody looks at the watch to the second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta

from tbps_cli.asking.clocks import DAY, PART, Clock, Stretch, between, clock_at, part_of_day, spelt
from tbps_cli.asking.dates import TWO_READINGS, Days, days_at
from tbps_cli.asking.lexicon import forms
from tbps_cli.asking.reading import Found, Known
from tbps_cli.filtering.tree import And, Between, Compare, Or, Tree

AT = 15
"""Minutes before and after "at 5 pm"."""
ABOUT = 30
"""Minutes before and after "around 5 pm"."""

_BLANK = re.compile(r"[\s,]*")
_JOIN = re.compile(r"\s*,?\s*(?:(?:at|on|of|in|from)\s+)?", re.IGNORECASE)
_START = re.compile(r"(?<![\w'’-])(?=[a-z\d])", re.IGNORECASE)
_SINCE = re.compile(r"(?P<since>since|after|later than)\s+", re.IGNORECASE)
_BEFORE = re.compile(r"(?P<before>before|until|till|up to|earlier than|not later than)\s+", re.IGNORECASE)
_ABOUT = re.compile(
    r"(?P<about>(?:at\s+)?(?:around|about|approximately|roughly|nearly|almost|circa|ca\.?))\s+|(?P<at>at)\s+(?:exactly\s+)?",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"(?P<between>between)\s+|(?P<from>from)\s+", re.IGNORECASE)
_AND = re.compile(r"\s*(?:\band\b|&|-|–|\bto\b)\s*", re.IGNORECASE)
_TO = re.compile(r"\s*(?:\bto\b|\buntil\b|\btill\b|\bthrough\b|-|–)\s*", re.IGNORECASE)
_ONWARDS = re.compile(r"\s+(?:on|onwards?)\b(?!\s+(?:the|cam|his|her|a)\b)", re.IGNORECASE)
_PART = re.compile(
    rf"(?:(?:in|during|over)\s+the\s+(?:(?P<half>early|late)\s+)?(?P<part>{PART})|(?P<night>at night|by night)|"
    r"(?P<whole>during the day|by day))(?![\w-])",
    re.IGNORECASE,
)
_OF_DAY = re.compile(rf"\s+(?:in the\s+)?(?:(?P<half>early|late)\s+)?(?P<part>{PART})(?![\w-])", re.IGNORECASE)
_THIS = re.compile(
    rf"(?P<this>this|last|yesterday|tomorrow)\s+(?:(?P<half>early|late)\s+)?(?P<part>{PART})(?![\w-])|(?P<tonight>tonight)\b",
    re.IGNORECASE,
)
_NOT_A_TIME = re.compile(
    r"\s+(?:dress|gown|suit|wear|coat|sun|sunlight|light|rush|shift|rain|snow|best|clothes|outfit|school|league|market|paper|shadow|sky|walk|jog|run|commute)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Moment:
    """Days, a time of day, or both, and where they end in the text."""

    end: int
    days: Days | None = None
    clock: Clock | None = None


@dataclass(frozen=True)
class When:
    """What one phrase says: days, a time of day (of these days or of every day), or a stretch with one end or two."""

    start: int
    end: int
    days: Days | None = None
    stretch: Stretch | None = None
    since: datetime | date | None = None
    until: datetime | date | None = None
    open_end: bool = False
    """`until` itself is left out."""
    after: bool = False
    """`since` itself is left out."""


def times(text: str, today: date, known: Known) -> list[Found]:
    """When, as a sentence says it; words that could mean a time but do not say which are only remarked on."""
    whens = _combined(text, list(_whens(text, today)))
    if not whens:
        return _unclear(text, [])
    if known.first is None:
        done = "no image of this gallery has a time: the words stay in the sentence"
        left = [Found(when.start, when.end, "left", done, keep=True) for when in whens]
        return left + _unclear(text, left)
    found = [_found(when, known) for when in whens]
    return found + _unclear(text, found)


def _whens(text: str, today: date) -> Iterator[When]:
    """The phrases of a sentence, from left to right."""
    at = 0
    for match in _START.finditer(text):
        if match.start() < at:
            continue
        when = _when(text, match.start(), today)
        if when is None or _NOT_A_TIME.match(text, when.end) or _names_clothes(text, when.end):
            continue
        at = when.end
        yield when


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
        since, until = _at(low.days.first, stretch.low), _at(high.days.first, stretch.high)
        return When(start, high.end, since=since, until=until, open_end=True) if since < until else None
    if (
        low.clock
        or high.clock
        or low.days is None
        or high.days is None
        or (not opened and (low.days.bare or high.days.bare))
    ):
        return None
    first, last = low.days.first, high.days.last
    if low.days.bare and first > last:  # from Friday to Monday
        first -= timedelta(days=7)
    return When(start, high.end, days=Days(first, last, high.end)) if first <= last else None


def _at(day: date, minutes: int | None) -> datetime:
    return datetime.combine(day, time()) + timedelta(minutes=minutes or 0)


def _since(text: str, start: int, today: date) -> When | None:
    opening = _SINCE.match(text, start)
    moment = (
        _moment(text, opening.end(), today, bare=False) or _weekday(text, opening.end(), today) if opening else None
    )
    if opening is None or moment is None:
        return None
    when = _open(start, moment, since=True)
    return replace(when, after=opening["since"].lower() != "since") if moment.clock is None else when


def _until(text: str, start: int, today: date) -> When | None:
    opening = _BEFORE.match(text, start)
    moment = (
        _moment(text, opening.end(), today, bare=False) or _weekday(text, opening.end(), today) if opening else None
    )
    if opening is None or moment is None:
        return None
    when = _open(start, moment, since=False)
    included = opening["before"].lower() in ("until", "till", "up to", "not later than")
    return replace(when, open_end=not included) if moment.clock is None else when


def _weekday(text: str, place: int, today: date) -> Moment | None:
    days = days_at(text, place, today, bare=True)
    return Moment(days.end, days) if days else None


def _open(start: int, moment: Moment, *, since: bool) -> When:
    """From a moment on, or up to it."""
    days, clock = moment.days, moment.clock
    if days is None and clock is not None:
        low, high = (clock.minutes, None) if since else (None, clock.minutes)
        return When(start, moment.end, stretch=Stretch(low, high))
    assert days is not None
    edge = (days.first if since else days.last) if clock is None else _at(days.first, clock.minutes)
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
    if moment is None or moment.clock is None:
        return None
    return When(start, moment.end, moment.days, _around(moment.clock, ABOUT if opening and opening["about"] else AT))


def _around(clock: Clock, minutes: int) -> Stretch:
    return Stretch((clock.minutes - minutes) % DAY, (clock.minutes + minutes) % DAY)


def _part(text: str, start: int, today: date) -> When | None:
    """in the afternoon · at night."""
    match = _PART.match(text, start)
    if match is None:
        return None
    if match["whole"]:
        return When(start, match.end(), stretch=Stretch(6 * 60, 22 * 60))
    stretch = part_of_day("night" if match["night"] else match["part"], match["half"])
    of = re.compile(r"\s+(?:of|on)\s+(?=\S)", re.IGNORECASE).match(text, match.end())
    days = days_at(text, of.end(), today, bare=True) if of else None
    return When(start, days.end, days, stretch) if days else When(start, match.end(), stretch=stretch)


def _combined(text: str, whens: list[When]) -> list[When]:
    """Phrases that one sentence parts: one day and one time of day are one stretch, wherever they stand."""
    days = [when for when in whens if when.days and not when.stretch and when.days.first == when.days.last]
    clocks = [when for when in whens if when.stretch and not when.days]
    if len(days) != 1 or len(clocks) != 1 or len(whens) != 2:
        return whens
    one, other = (replace(when, days=days[0].days, stretch=clocks[0].stretch) for when in whens)
    beside = _BLANK.fullmatch(text, one.end, other.start)
    return [replace(one, end=other.end)] if beside else [one, other]


# Conditions -----------------------------------------------------------------------------------


def _found(when: When, known: Known) -> Found:
    tree, said = condition(when)
    outside = _outside(when, known)
    done = f"only images {said}" + (
        f"; but the times of this gallery go from {known.first} to {known.last}" if outside else ""
    )
    return Found(when.start, when.end, "time", done, tree)


def condition(when: When) -> tuple[Tree, str]:
    """The filter of a phrase, and how it is said."""
    if when.days and when.stretch:
        return _one_stretch(when.days, when.stretch)
    if when.days:
        return _of_days(when.days), f"of {when.days}"
    if when.stretch:
        return _every_day(when.stretch), f"taken {when.stretch} on any day"
    parts: list[Tree] = []
    said: list[str] = []
    if when.since:
        parts.append(Compare("time", ">" if when.after else ">=", _iso(when.since)))
        said.append(f"{'after' if when.after else 'from'} {_iso(when.since)}")
    if when.until:
        parts.append(Compare("time", "<" if when.open_end else "<=", _iso(when.until)))
        said.append(f"{'before' if when.open_end else 'until'} {_iso(when.until)}")
    return (And(tuple(parts)) if len(parts) > 1 else parts[0]), " ".join(said)


def _one_stretch(days: Days, stretch: Stretch) -> tuple[Tree, str]:
    if days.first != days.last:
        return And((_of_days(days), _every_day(stretch))), f"of {days}, taken {stretch}"
    first = _at(days.first, stretch.low)
    last = _at(days.first + timedelta(days=1 if stretch.high is None or stretch.wraps else 0), stretch.high)
    tree = And((Compare("time", ">=", _iso(first)), Compare("time", "<", _iso(last))))
    return tree, f"from {_iso(first)} to {_iso(last)}"


def _of_days(days: Days) -> Tree:
    if days.first == days.last:
        return Compare("time", "==", str(days.first))
    return Between("time", str(days.first), str(days.last))


def _every_day(stretch: Stretch) -> Tree:
    low = Compare("clock", ">=", spelt(stretch.low)) if stretch.low else None
    high = Compare("clock", "<", spelt(stretch.high)) if stretch.high else None
    if low and high:
        return Or((low, high)) if stretch.wraps else And((low, high))
    return low or high or Compare("clock", ">=", "00:00")


def _iso(moment: datetime | date) -> str:
    return moment.isoformat(timespec="minutes") if isinstance(moment, datetime) else moment.isoformat()


def _outside(when: When, known: Known) -> bool:
    """Whether no image can be from then, as far as days say it."""
    low = when.days.first.isoformat() if when.days else _iso(when.since)[:10] if when.since else None
    high = when.days.last.isoformat() if when.days else _iso(when.until)[:10] if when.until else None
    return bool(known.first and known.last and ((low and low > known.last[:10]) or (high and high < known.first[:10])))


# What is left ---------------------------------------------------------------------------------

_UNCLEAR = (
    (TWO_READINGS, "this date can be read in two ways: write it as 2026-01-31"),
    (
        re.compile(
            r"\b(?:at|around|about|between|before|after)\s+\w+(?:\s+(?:and|to)\s+\w+)?\s+o'clock\b(?!\s+shadow)",
            re.IGNORECASE,
        ),
        "am or pm is not said: write 5 pm or 17:00",
    ),
    (
        re.compile(r"\b(?:half past|quarter past|quarter to)\s+\w+", re.IGNORECASE),
        "am or pm is not said: write 5:30 pm or 17:30",
    ),
    (
        re.compile(
            r"\b(?:in|within|during|for)?\s*(?:the\s+)?(?:last|past)\s+(?:\w+\s+)?(?:hours?|minutes?)\b|\b\w+\s+(?:hours?|minutes?|weeks?|months?)\s+ago\b",
            re.IGNORECASE,
        ),
        "this is not read as a time: give a day or a time of day",
    ),
    (re.compile(r"\btomorrow\b", re.IGNORECASE), "no image is from tomorrow"),
)


def _unclear(text: str, found: list[Found]) -> list[Found]:
    """Words that mean a time but do not say which: they stay, and the remark says how to write them."""
    said: list[Found] = []
    for expression, advice in _UNCLEAR:
        for match in expression.finditer(text):
            if all(match.end() <= entry.start or match.start() >= entry.end for entry in [*found, *said]):
                said.append(
                    Found(match.start(), match.end(), "left", f"{advice}; the words stay in the sentence", keep=True)
                )
    return said
