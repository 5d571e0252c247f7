"""Camera, time and person from names of files, by conventions of data sets and cameras or by a pattern of one's own.

Only what cannot mean anything else is taken: a time needs a whole date and a time of day, a camera a word such as
`cam3` or `ch01`, a person the name of a data set's image. A number alone is nothing. Times are those of the camera's
clock, as ISO 8601 without a zone; names that state a zone (a Z behind the time, Google's `PXL_...`) or when a file was
sent or saved (`signal-...`, `photo_...`, `Screenshot...`) give none.

A pattern of one's own, such as `{camera}_{time:%Y%m%d-%H%M%S}`, decides alone. It describes the end of a path, as many
folders as it names, with or without the file's ending.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple, NoReturn

from tbps_cli.data.layouts import icfg_pedes, rstpreid
from tbps_cli.data.types import Person
from tbps_cli.errors import FilterError

CONVENTIONS = 1
"""Raised when a name comes to say something else: an index then reads the names of all its files again."""


class NameFacts(NamedTuple):
    """What a file's name says; None where it does not say it."""

    camera: str | None = None
    time: str | None = None
    person: Person | None = None
    track: str | None = None


NOTHING_SAID = NameFacts()

# Conventions of data sets ---------------------------------------------------------------------


def _market(found: re.Match[str]) -> NameFacts:
    """0001_c1s1_000151_01, and 0001_c2_f0046182 of DukeMTMC; 0000 and -1 are nobody in particular."""
    person = int(found["person"])
    return NameFacts(f"c{found['camera']}", None, person if person > 0 else None)


def _rstpreid(found: re.Match[str]) -> NameFacts:
    """0000_c14_0031."""
    return NameFacts(rstpreid.about(found[0])[0], None, int(found["person"]))


def _msmt17(found: re.Match[str]) -> NameFacts:
    """0000_012_01_0303morning_0015_0_ex: person, image, camera, day and time of day."""
    return NameFacts(*icfg_pedes.about(found[0]), int(found["person"]))


def _cuhk_sysu(found: re.Match[str]) -> NameFacts:
    """p11600_s14885: person and scene."""
    return NameFacts(None, None, f"p{found['person']}")


_DATA_SETS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], NameFacts]], ...] = (
    (re.compile(r"(?P<person>-1|\d{4})_c(?P<camera>\d)s\d_\d{6}_\d\d(_\w+)?(\.jpg)?"), _market),
    (re.compile(r"(?P<person>\d{4})_c(?P<camera>\d)_f\d{7}(_\w+)?"), _market),
    (re.compile(r"(?P<person>\d{4})_c\d{1,2}_\d{4}"), _rstpreid),
    (re.compile(r"(?P<person>\d{4})_\d{3}_\d\d_\d{4}(morning|noon|afternoon)_\d{4}_\d(_ex)?"), _msmt17),
    (re.compile(r"p(?P<person>\d+)_s\d+"), _cuhk_sysu),
)

# Conventions of cameras -----------------------------------------------------------------------

_DATE, _CLOCK = r"(?P<Y>(?:19|20)\d\d){0}(?P<M>\d\d){0}(?P<D>\d\d)", r"(?P<h>\d\d){0}(?P<m>\d\d)"
_END = r"(?![\dZz]|[+-]\d\d:?\d\d(?!\d))"
"""Not the beginning of a longer number, and no zone behind it."""
_SECONDS = r"(?P<s>\d\d)(?:[.,]?(?P<f>\d{3})(?!\d))?"
_TIMES = tuple(
    re.compile(rf"(?<!\d){text}{_END}")
    for text in (
        _DATE.format("") + _CLOCK.format("") + _SECONDS,  # 20260105101112, and with milliseconds
        _DATE.format("") + "[_T -]" + _CLOCK.format("") + _SECONDS,  # 20260105_101112
        _DATE.format("[-_.]") + "[_T .-]{1,2}" + _CLOCK.format("") + _SECONDS,  # 2026-01-05_101112
        _DATE.format("[-_.]") + "[_T .-]{1,2}" + _CLOCK.format("[-_.:h]") + "[-_.:m]" + _SECONDS,  # 2026-01-05T10-11-12
        _DATE.format("") + "[_T -]" + _CLOCK.format("[-_.:]") + "[-_.:]" + _SECONDS,  # 20260105_10_11_12
        r"(?P<Y>(?:19|20)\d\d)_(?P<M>\d\d)(?P<D>\d\d)_" + _CLOCK.format("") + _SECONDS,  # 2026_0105_101112
    )
)
_ELSEWHERE = re.compile(r"(PXL_|signal-|photo_|Screenshot|Screen[ _]Recording|WhatsApp|telegram)", re.IGNORECASE)
_DAY = re.compile(r"(?P<Y>(?:19|20)\d\d)[-_.]?(?P<M>\d\d)[-_.]?(?P<D>\d\d)")
"""A folder of one day ..."""
_HOUR = re.compile(r"(?P<h>\d\d)([-.:])(?P<m>\d\d)\2(?P<s>\d\d)(?:-\d\d\2\d\d\2\d\d)?(?:\[.*)?")
"""... in which files are called by the time of day: 10-11-12, 10.11.12-10.21.12[M][0@0][0]."""
_CAMERA = re.compile(
    r"(?<![^\W_])(?P<camera>(?:ip)?(?:camera|kamera|cam|channel|chan|ch)(?:[-_ ]?\d{1,4}|[-_][a-z]))(?![^\W_])",
    re.IGNORECASE,
)
_LONGEST_RECORDING = 86_400
"""Seconds between two times in a name that are taken for a beginning and an end."""


def facts_of(path: str) -> NameFacts:
    """What a path says, with forward slashes, relative to its gallery."""
    *folders, name = path.split("/")
    stem = name.rpartition(".")[0] or name
    for pattern, meaning in _DATA_SETS:
        found = pattern.fullmatch(stem)
        if found is not None:
            return meaning(found)
    return NameFacts(_camera(stem, folders), _time(stem, folders))


def _time(stem: str, folders: list[str]) -> str | None:
    if _ELSEWHERE.match(stem):
        return None
    found = sorted({time for pattern in _TIMES for match in pattern.finditer(stem) if (time := _when(match))})
    if not found:
        return _time_in_folders(stem, folders)
    # the beginning and the end of a recording; more, or further apart, may be anything
    if len(found) > 2 or (found[-1] - found[0]).total_seconds() > _LONGEST_RECORDING:
        return None
    return _iso(found[0])


def _time_in_folders(stem: str, folders: list[str]) -> str | None:
    """A folder of a day, and a file of a time of day in it or in a folder below."""
    hour = _HOUR.fullmatch(stem)
    days = [day for folder in folders if (day := _DAY.fullmatch(folder))]
    if hour is None or len(days) != 1:
        return None
    when = _when(days[0], hour)
    return None if when is None else _iso(when)


def _when(*found: re.Match[str]) -> datetime | None:
    """The time that named groups state; None where there is no such day or hour."""
    part = {name: value for match in found for name, value in match.groupdict().items() if value}
    try:
        year, month, day, hour, minute, second = (int(part[name]) for name in "YMDhms")
        return datetime(year, month, day, hour, minute, second, int(part.get("f", "0")) * 1000)
    except (ValueError, KeyError):
        return None


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds" if when.microsecond else "seconds")


def _camera(stem: str, folders: list[str]) -> str | None:
    """The camera that the name, or else the nearest folder, names; None where a name has several."""
    found = {match["camera"].lower() for match in _CAMERA.finditer(stem)}
    if found:
        return found.pop() if len(found) == 1 else None
    return next((folder.lower() for folder in reversed(folders) if _CAMERA.fullmatch(folder)), None)


# A pattern of one's own -----------------------------------------------------------------------

FIELDS = "camera", "time", "person", "track"
EXAMPLE = "For example: --pattern '{camera}_{time:%Y%m%d-%H%M%S}' or '{camera}/{time:%Y-%m-%d}/{}'; {} is anything."
_DIRECTIVES = {
    "Y": r"\d{4}",
    "m": r"\d\d",
    "d": r"\d\d",
    "H": r"\d\d",
    "M": r"\d\d",
    "S": r"\d\d",
    "y": r"\d\d",
    "f": r"\d{1,6}",
    "j": r"\d{3}",
    "b": r"[A-Za-z]{3}",
    "I": r"\d\d",
    "p": r"[AaPp][Mm]",
}
"""Those of `strptime` whose length is known or whose letters are."""
_MOST_OPEN, _LONGEST = 4, 128
"""Fields of any length, and letters of a path: more would make a pattern slow on some names."""


class NamePattern:
    """A pattern such as `{camera}_{time:%Y%m%d-%H%M%S}`, ready to read paths."""

    def __init__(self, text: str) -> None:
        """Raises FilterError, which shows the place of what is wrong."""
        self.text = text
        self._formats: list[str] = []
        self._fields: set[str] = set()
        self._open = 0
        self._expression = re.compile("".join(self._pieces()))
        self._folders = text.count("/")
        if not self._fields:
            self._refuse(0, "names no field", f"Fields: {', '.join(FIELDS)}. {EXAMPLE}")
        if self._formats:
            self._check_time()

    def facts_of(self, path: str) -> NameFacts | None:
        """What a path says, with forward slashes; None when it does not fit, or states a time that does not exist."""
        parts = path.split("/")
        end = "/".join(parts[-self._folders - 1 :])
        if len(parts) <= self._folders or len(end) > _LONGEST:
            return None
        stem = end[: -len(ending)] if (ending := _ending(parts[-1])) else end
        found = self._expression.fullmatch(stem) or self._expression.fullmatch(end)
        if found is None:
            return None
        said = found.groupdict()
        time = None
        if self._formats:
            stated = " ".join(said[f"time{number}"] for number in range(len(self._formats)))
            try:
                time = _iso(datetime.strptime(stated, " ".join(self._formats)))
            except ValueError:
                return None
        person = said.get("person")
        return NameFacts(
            said.get("camera"), time, int(person) if person and person.isdecimal() else person, said.get("track")
        )

    def _pieces(self) -> Iterator[str]:
        """The regular expression of each piece; literal text stands for itself."""
        place = 0
        while place < len(self.text):
            sign = self.text[place]
            if self.text[place : place + 2] in ("{{", "}}"):
                yield re.escape(sign)
                place += 2
            elif sign == "{":
                end = self.text.find("}", place)
                if end < 0:
                    self._refuse(place, "is not closed", EXAMPLE)
                yield self._field(self.text[place + 1 : end], place)
                place = end + 1
            elif sign == "}":
                self._refuse(place, "closes nothing", "A brace of the name itself is written twice: }}")
            else:
                yield re.escape(sign)
                place += 1

    def _field(self, inside: str, place: int) -> str:
        name, colon, form = inside.partition(":")
        name = name.strip()
        if name and name not in FIELDS:
            self._refuse(place + 1, f"{name!r} is no field", f"Fields: {', '.join(FIELDS)}. {EXAMPLE}")
        if name == "time":
            self._formats.append(form)
            self._fields.add(name)
            return f"(?P<time{len(self._formats) - 1}>{self._time_expression(form, place + 2 + len('time'))})"
        if colon:
            self._refuse(place + 1 + len(name), "only a time has a format", EXAMPLE)
        if name in self._fields:
            self._refuse(place + 1, f"{name} stands twice", EXAMPLE)
        self._open += 1
        if self._open > _MOST_OPEN:
            self._refuse(place, f"more than {_MOST_OPEN} fields of any length", "Write out what is always the same.")
        if not name:
            return "[^/]*?"
        self._fields.add(name)
        return f"(?P<{name}>[^/]+?)"

    def _time_expression(self, form: str, place: int) -> str:
        if not form:
            self._refuse(place - 1, "a time needs its format", EXAMPLE)
        pieces, at = [], 0
        while at < len(form):
            if form[at] != "%":
                if form[at] == "/":
                    self._refuse(
                        place + at, "a time ends at its folder", "Give each its own: {time:%Y-%m-%d}/{time:%H%M}"
                    )
                pieces.append(re.escape(form[at]))
                at += 1
                continue
            letter = form[at + 1 : at + 2]
            if letter not in (*_DIRECTIVES, "%") or not letter:
                known = " ".join(f"%{one}" for one in _DIRECTIVES)
                self._refuse(place + at, f"%{letter} is not known", f"Known: {known}")
            pieces.append(_DIRECTIVES.get(letter, "%"))
            at += 2
        return "".join(pieces)

    def _check_time(self) -> None:
        """Whether the formats together give a time, and say each thing once."""
        form = " ".join(self._formats)
        letters = re.findall(r"%([A-Za-z])", form)
        twice = next((letter for letter in letters if letters.count(letter) > 1), None)
        place = max(0, self.text.find("{time"))
        if twice is not None:
            self._refuse(place, f"%{twice} stands twice", EXAMPLE)
        if not (
            {"Y", "y"} & set(letters) and ({"m", "d"} <= set(letters) or {"b", "d"} <= set(letters) or "j" in letters)
        ):
            self._refuse(place, "a time needs year, month and day", EXAMPLE)

    def _refuse(self, place: int, what: str, hint: str) -> NoReturn:
        shown = "".join(sign if sign.isprintable() else "?" for sign in self.text)
        raise FilterError(f"--pattern: {what} (character {place + 1}).", (shown, " " * place + "^"), hint)


def _ending(name: str) -> str:
    """`.mp4`; nothing for a name without an ending."""
    stem, dot, ending = name.rpartition(".")
    return dot + ending if stem and dot and ending.isalnum() and len(ending) <= 5 else ""
