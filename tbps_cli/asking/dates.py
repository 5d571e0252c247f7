"""Days as people say them, counted from a given one: `yesterday`, `last Monday`, `5 January`, `2026-01-05`.

A day without its year is the latest one that is not after today. 05/01/2026 has two readings, so it has none here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

from tbps_cli.asking.counts import NUMBERS

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
YEARS = 1826, 2200
TWO_READINGS = re.compile(r"(?<![\w/])\d{1,2}/\d{1,2}/\d{4}(?![\w/])")

_WEEKDAY = rf"(?P<weekday>{'|'.join(WEEKDAYS)})"
_MONTH = rf"(?P<name>{'|'.join(MONTHS)}|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)"
_COUNT = rf"(?P<count>\d{{1,2}}|{'|'.join(word for word in NUMBERS if word != 'zero')})"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?"
_YEAR = r"(?:,?\s+(?P<year>20\d\d))?"

Said = re.Match[str]
Range = tuple[date, date]


@dataclass(frozen=True)
class Days:
    """From one day to another, both included; `end` is where the words end."""

    first: date
    last: date
    end: int
    bare: bool = False
    """A weekday without "on" or "last": alone it may be part of a name, so it needs a time beside it."""

    def __str__(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"


def days_at(text: str, place: int, today: date, *, bare: bool = False) -> Days | None:
    """The days that begin there; bare: a weekday needs no "on" before it."""
    for expression, read in _READERS:
        match = expression.match(text, place)
        found = read(match, today) if match else None
        if match and found is not None:
            return Days(*found, match.end())
    match = _BARE.match(text, place) if bare else None
    if match is None:
        return None
    day = _latest_weekday(match["weekday"], today)
    return Days(day, day, match.end(), bare=True)


def _named(said: Said, today: date) -> Range:
    back = {"today": 0, "yesterday": 1}.get(said["word"].lower(), 2)
    return _single(today - timedelta(days=back))


def _ago(said: Said, today: date) -> Range:
    return _single(today - timedelta(days=_number(said["count"])))


def _unit(said: Said, today: date) -> Range:
    """Last week is Monday to Sunday before this one; this week ends today."""
    this, unit = said["which"].lower() == "this", said["unit"].lower()
    monday = today - timedelta(days=today.weekday())
    if unit == "week":
        return (monday, today) if this else (monday - timedelta(days=7), monday - timedelta(days=1))
    if unit == "month":
        first = today.replace(day=1)
        return (first, today) if this else ((first - timedelta(days=1)).replace(day=1), first - timedelta(days=1))
    if this:
        return _weekend(said, today)
    saturday = monday - timedelta(days=2)
    return saturday, saturday + timedelta(days=1)


def _weekend(_: Said, today: date) -> Range:
    """The latest Saturday and Sunday that have begun."""
    saturday = today - timedelta(days=(today.weekday() - 5) % 7)
    return saturday, saturday + timedelta(days=1)


def _past(said: Said, today: date) -> Range:
    days = _number(said["count"]) * (7 if said["unit"].lower().startswith("week") else 1)
    return today - timedelta(days=days), today


def _dated(said: Said, today: date) -> Range | None:
    """A day whose month is a number and whose year is there."""
    return _day(int(said["year"]), int(said["month"]), int(said["day"]))


def _slashed(said: Said, today: date) -> Range | None:
    one, two, year = int(said["one"]), int(said["two"]), int(said["year"])
    if one != two and one <= 12 and two <= 12:
        return None
    return _day(year, min(one, two), max(one, two))


def _in_month(said: Said, today: date) -> Range | None:
    """A day, or several (`until`), of a month that has its name, with the year or without."""
    month = next(number for number, name in enumerate(MONTHS, 1) if name.startswith(said["name"].lower()[:3]))
    day = int(re.sub(r"\D", "", said["day"]))
    until = int(re.sub(r"\D", "", said.groupdict().get("until") or said["day"]))
    years = [int(said["year"])] if said["year"] else range(today.year, today.year - 8, -1)
    for year in years:
        first, last = _day(year, month, day), _day(year, month, until)
        if first and last and first[0] <= last[0] and (said["year"] or first[0] <= today):
            return first[0], last[0]
    return None


def _month(said: Said, today: date) -> Range | None:
    """A whole month; "may" and "march" only with a capital or a year, since they are other words too."""
    if said["name"] in ("may", "march", "mar") and not said["year"]:
        return None
    month = next(number for number, name in enumerate(MONTHS, 1) if name.startswith(said["name"].lower()[:3]))
    year = int(said["year"]) if said["year"] else today.year - (month > today.month)
    first = date(year, month, 1)
    return first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)


def _on_weekday(said: Said, today: date) -> Range:
    """On Monday: the latest one, today included; last Monday: before today."""
    last = "last" in said["which"].lower() or "past" in said["which"].lower()
    return _single(_latest_weekday(said["weekday"], today - timedelta(days=1) if last else today))


def _latest_weekday(name: str, today: date) -> date:
    return today - timedelta(days=(today.weekday() - WEEKDAYS.index(name.lower())) % 7)


def _single(day: date) -> Range:
    return day, day


def _day(year: int, month: int, day: int) -> Range | None:
    """A day of the calendar, in years in which there are photographs."""
    try:
        return _single(date(year, month, day)) if YEARS[0] <= year <= YEARS[1] else None
    except ValueError:
        return None


def _number(text: str) -> int:
    return NUMBERS.get(text.lower(), 1 if text.lower() == "a" else 0) or int(text)


def _of(expression: str, after: str = r"(?![\w-]|['’]\w)") -> re.Pattern[str]:
    return re.compile(expression + after, re.IGNORECASE)


_ON = r"(?:on\s+)?(?:the\s+)?"
_IN = r"(?:(?:in|during|over|for|within)\s+)?"
_READERS: tuple[tuple[re.Pattern[str], Callable[[Said, date], Range | None]], ...] = (
    (_of(rf"{_ON}(?P<word>day before yesterday|yesterday|today)"), _named),
    (_of(rf"{_COUNT}\s+days?\s+ago"), _ago),
    (
        _of(
            r"(?:(?:in|during|over|within|at|on)\s+)?(?:all\s+(?:of\s+)?)?(?:the\s+)?(?P<which>last|past|previous|this)\s+(?P<unit>weekend|week|month)"
        ),
        _unit,
    ),
    (_of(r"(?:on|at|over|during)\s+the\s+weekend"), _weekend),
    (_of(rf"{_IN}the\s+(?:last|past)\s+{_COUNT}\s+(?P<unit>days|weeks)"), _past),
    (_of(r"(?:on\s+)?(?P<year>\d{4})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})", r"(?=T\d|[^\w-]|$)"), _dated),
    (_of(r"(?:on\s+)?(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})"), _dated),
    (_of(r"(?:on\s+)?(?P<one>\d{1,2})/(?P<two>\d{1,2})/(?P<year>\d{4})"), _slashed),
    (
        _of(rf"{_ON}(?P<day>{_DAY})\s*(?:-|–|to|and|until)\s*(?:the\s+)?(?P<until>{_DAY})\s+(?:of\s+)?{_MONTH}{_YEAR}"),
        _in_month,
    ),
    (_of(rf"{_ON}(?P<day>{_DAY})\s+(?:of\s+)?{_MONTH}\.?{_YEAR}"), _in_month),
    (_of(rf"(?:on\s+)?{_MONTH}\.?\s+(?:the\s+)?(?P<day>{_DAY}){_YEAR}", r"(?![\w:.-]*\w|\s*[ap]\.?m\b)"), _in_month),
    (_of(rf"in\s+{_MONTH}{_YEAR}"), _month),
    (_of(rf"(?P<which>on last|on|last|this past|this)\s+{_WEEKDAY}"), _on_weekday),
)
_BARE = _of(_WEEKDAY)
