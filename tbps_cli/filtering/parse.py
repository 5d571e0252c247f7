"""From the text of `--where` to a tree: `camera == "c1" and 17:05 <= clock < 18:00`.

Comparisons `== != < <= > >=`, ranges `between 10 and 20` and `10 <= seconds < 20`, `in (...)`, `not in (...)`, `like`
(with * and ?), joined by `and`, `or`, `not` and brackets. Values are numbers, texts in quotes, `none`, and times and
times of day without quotes. Words may be written in capitals. Nothing of the text is ever executed. A mistake is
shown with a caret below its character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import NoReturn

from tbps_cli.errors import FilterError, UsageError
from tbps_cli.escape import printable
from tbps_cli.filtering import moments
from tbps_cli.filtering.tree import (
    FIELDS,
    NUMBERS,
    ORDER,
    SIGNS,
    And,
    Between,
    Compare,
    In,
    Like,
    Not,
    Or,
    Tree,
    Value,
    looks_at,
    needs,
    number,
    render,
)

EXAMPLE = 'For example: --where \'camera == "c1" and path like "night/*"\''
MAX_LENGTH = 2_000
"""Characters."""
MAX_DEPTH = 40
"""Brackets and `not`s inside each other."""
CALLED = {"clock": "time of day", "seconds": "time in a video", "detection": "detector's score"}
"""How fields are called whose name is no noun for it."""
MAX_DIGITS = 300
"""Of a number, so that it is one for every store."""
AROUND = 36
"""Columns of the text that a mistake shows on each side of its place."""

_LEXEME = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<moment>\d{4}-\d{1,2}(?:-\d{1,2}(?:T\d{1,2}(?::\d{2}(?::\d{2}(?:\.\d+)?)?)?)?)?)(?![\w.:-])
    |(?P<clock>\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)(?![\w.:-])
    |(?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w.:])
    |(?P<word>[A-Za-z_]\w*)
    |(?P<sign>==|!=|<=|>=|<|>|=|\(|\)|,))""",
    re.VERBOSE | re.ASCII,
)
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_SIGNS_OF_OTHERS = {"&": "and", "|": "or", "!": "not"}


@dataclass(frozen=True)
class Where:
    """A filter that was understood."""

    text: str
    tree: Tree
    fields: frozenset[str]
    """Those it looks at."""
    needed: frozenset[str]
    """Those it compares with a value, not only with `none`."""

    @classmethod
    def of(cls, tree: Tree, text: str | None = None) -> Where:
        """The filter that a tree is; its text as `render` writes it, unless another is given."""
        return cls(render(tree) if text is None else text, tree, looks_at(tree), needs(tree))


def parse(text: str) -> Where:
    """The filter that a text means. Raises FilterError naming the place where it stops making sense."""
    if len(text) > MAX_LENGTH:
        raise UsageError(f"--where: longer than {MAX_LENGTH:,} characters.", EXAMPLE)
    reader = _WhereReader(text)
    tree = reader.either()
    if reader.now.kind != "end":
        reader.fail("and, or, or the end")
    return Where.of(tree, text)


def require(where: Where, knows: Callable[[str], bool]) -> None:
    """Raise UsageError when a field is compared that no image has any value of.

    knows: whether any image of the gallery has a value of a field.
    """
    for field in sorted(where.needed - {"score"}):
        if not knows(field):
            there = [name for name in FIELDS if name == "score" or knows(name)]
            called = f"{CALLED[field]} ({field})" if field in CALLED else field
            raise UsageError(
                f"--where: no image here has a {called}.", f"What is known of them: {', '.join(there)}. {EXAMPLE}"
            )


@dataclass(frozen=True)
class Lexeme:
    """One piece of a filter's text: text, moment, clock, number, word, sign or end."""

    kind: str
    raw: str
    place: int
    end: int

    @property
    def shown(self) -> str:
        if self.kind == "end":
            return "the end"
        return repr(_unquoted(self.raw) if self.kind == "text" else self.raw)


def _unquoted(raw: str) -> str:
    return re.sub(r"\\(.)", r"\1", raw[1:-1], flags=re.DOTALL)


class _WhereReader:
    """either := both ("or" both)* · both := one ("and" one)* · one := "not" one | (either) | comparison."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.depth = 0
        self.place = 0
        self.lexemes = self._lexemes()

    @property
    def now(self) -> Lexeme:
        """The piece that comes next."""
        return self.lexemes[self.place]

    def either(self) -> Tree:
        parts = [self.both()]
        while self._take("word", "or"):
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self) -> Tree:
        parts = [self.one()]
        while self._take("word", "and"):
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def one(self) -> Tree:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse(f"more than {MAX_DEPTH} brackets or nots inside each other", self.now)
        if self._take("word", "not"):
            tree: Tree = Not(self.one())
        elif self._take("sign", "("):
            tree = self.either()
            self._expect("sign", ")")
        else:
            tree = self.comparison()
        self.depth -= 1
        return tree

    def comparison(self) -> Tree:
        if self.now.kind not in ("word", "end", "sign"):
            return self._value_first()
        field = self._field()
        if self._take("word", "like"):
            return self._like(field)
        if self._take("word", "not"):
            if self._take("word", "between"):
                return Not(self._between(field))
            if not self._take("word", "in"):
                self.fail("in or between")
            return Not(self._list(field))
        if self._take("word", "in"):
            return self._list(field)
        if self._take("word", "between"):
            return self._between(field)
        sign = self._comparison_sign()
        return Compare(field, sign, self._value(field, sign))

    def _value_first(self) -> Tree:
        """`10 <= seconds`, and a range: `10 <= seconds < 20`."""
        start = self.place
        self.place += 1
        first = self._comparison_sign()
        field = self._field()
        after = self.place
        self.place = start
        low = self._value(field, first)  # read now: only the field says what it may be
        self.place = after
        compared = Compare(field, _TURNED[first], low)
        if self.now.kind != "sign" or self.now.raw not in (*SIGNS, "="):
            return compared
        at = self.now
        second = self._comparison_sign()
        if first not in ORDER or second[0] != first[0]:
            self.refuse("a range has two signs of one direction", at, "For example: 10 <= seconds < 20")
        high = self._value(field, second)
        if first[0] == "<":
            self._check_range(field, low, high, self.lexemes[self.place - 1])
        if (first, second) == ("<=", "<=") and low is not None and high is not None:
            return Between(field, low, high)
        return And((compared, Compare(field, second, high)))

    def _between(self, field: str) -> Between:
        low = self._value(field, "<=")
        self._expect("word", "and")
        at = self.now
        high = self._value(field, "<=")
        assert low is not None and high is not None
        self._check_range(field, low, high, at)
        return Between(field, low, high)

    def _check_range(self, field: str, low: Value, high: Value, at: Lexeme) -> None:
        numbers = number(low), number(high)
        turned = numbers[0] > numbers[1] if None not in numbers else str(low)[: len(str(high))] > str(high)  # type: ignore[operator]
        if turned:
            over_night = f'Over midnight: clock >= "{low}" or clock < "{high}"' if field == "clock" else EXAMPLE
            self.refuse("the range ends before it begins, so that nothing fits", at, over_night)

    def _like(self, field: str) -> Like:
        if field in NUMBERS:
            self.refuse(f"{field} is a number, and like is for texts", self.lexemes[self.place - 1])
        lexeme = self.now
        if lexeme.kind not in ("text", "number", "moment", "clock"):
            self.fail("a pattern in quotes")
        self.place += 1
        return Like(field, _unquoted(lexeme.raw) if lexeme.kind == "text" else lexeme.raw)

    def _list(self, field: str) -> In:
        self._expect("sign", "(")
        values = [self._value(field, "==")]
        while self._take("sign", ","):
            values.append(self._value(field, "=="))
        self._expect("sign", ")")
        return In(field, tuple(values))

    def _field(self) -> str:
        lexeme = self.now
        if lexeme.kind != "word":
            self.fail("a field (" + ", ".join(FIELDS) + ")")
        name = lexeme.raw.lower()
        if name not in FIELDS:
            from difflib import get_close_matches

            near = get_close_matches(name, FIELDS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Fields: {', '.join(FIELDS)}. {EXAMPLE}"
            self.refuse(f"there is no field {lexeme.raw!r}", lexeme, hint)
        self.place += 1
        return name

    def _comparison_sign(self) -> str:
        sign = "==" if self.now.raw == "=" else self.now.raw
        if self.now.kind != "sign" or sign not in SIGNS:
            self.fail("a comparison (== != < <= > >= like in between)")
        self.place += 1
        return sign

    def _value(self, field: str, sign: str) -> Value:
        """A value that the field can be compared with."""
        lexeme = self.now
        if lexeme.kind == "word" and lexeme.raw.lower() in ("none", "null"):
            if sign in ORDER:
                self.refuse(f"{field} {sign} none makes no sense", lexeme, "Only == none and != none do.")
            self.place += 1
            return None
        if lexeme.kind not in ("text", "number", "moment", "clock"):
            self.fail("a value: a number, none, or a text in quotes")
        self.place += 1
        if lexeme.kind == "number":
            value: Value = self._number(lexeme)
        else:
            value = _unquoted(lexeme.raw) if lexeme.kind == "text" else lexeme.raw
        if field in NUMBERS:
            return self._for_number(field, value, lexeme)
        if field == "time":
            return self._for_time(sign, value, lexeme)
        return self._for_clock(value, lexeme) if field == "clock" else value

    def _number(self, lexeme: Lexeme) -> int | float:
        whole = not set(lexeme.raw) & set(".eE")
        if len(lexeme.raw) > MAX_DIGITS or not isfinite(float(lexeme.raw)):
            self.refuse("a number too large", lexeme)
        return int(lexeme.raw) if whole else float(lexeme.raw)

    def _for_number(self, field: str, value: Value, lexeme: Lexeme) -> Value:
        if isinstance(value, int | float):
            return value
        if number(value) is None:
            self.refuse(f"a {field} is a number", lexeme, f"For example: {field} > {'0.3' if field == 'score' else 10}")
        return self._number(Lexeme("number", str(value), lexeme.place, lexeme.end))

    def _for_time(self, sign: str, value: Value, lexeme: Lexeme) -> Value:
        """The beginning of a time as galleries spell it; what is none only where any text can be equal."""
        example = "For example: time >= 2026-01-31T08:00"
        if isinstance(value, int | float):
            if sign in ORDER and not 1000 <= value <= 9999:
                self.refuse("not a time, nor a year", lexeme, f"{example}; seconds into a video: seconds > 5")
            return value
        text = str(value)
        try:
            if (found := moments.moment(text)) is not None:
                return found if number(text) is None else text
        except ValueError:
            self.refuse("there is no such time", lexeme, example)
        if sign in ORDER and (moments.other_order(text) or not re.search(r"\d", text)):
            self.refuse("not a time", lexeme, example)
        return text

    def _for_clock(self, value: Value, lexeme: Lexeme) -> str:
        found = moments.clock(str(value))
        if found is None:
            self.refuse("not a time of day", lexeme, "For example: 17:05 <= clock < 18:00")
        return found

    def _take(self, kind: str, raw: str) -> bool:
        """Whether this comes next; then it is passed."""
        fits = self.now.kind == kind and self.now.raw.lower() == raw
        self.place += fits
        return fits

    def _expect(self, kind: str, raw: str) -> None:
        if not self._take(kind, raw):
            self.fail(raw)

    def fail(self, expected: str) -> NoReturn:
        self.refuse(f"expected {expected} instead of {self.now.shown}", self.now)

    def refuse(self, what: str, at: Lexeme, hint: str = EXAMPLE) -> NoReturn:
        raise FilterError(f"--where: {what} (character {at.place + 1}).", excerpt(self.text, at.place), hint)

    def _lexemes(self) -> list[Lexeme]:
        found: list[Lexeme] = []
        place, end = 0, len(self.text.rstrip())
        while place < end:
            match = _LEXEME.match(self.text, place)
            if match is None or "\0" in match[0]:
                start = place + len(self.text[place:]) - len(self.text[place:].lstrip())
                word = _SIGNS_OF_OTHERS.get(self.text[start])
                hint = f"Write {word} instead of {self.text[start]}. {EXAMPLE}" if word else EXAMPLE
                self.refuse("not understood", Lexeme("", "", start, start), hint)
            kind = match.lastgroup or ""
            found.append(Lexeme(kind, match[kind], match.start(kind), match.end()))
            place = match.end()
        return [*found, Lexeme("end", "", end, end)]


def excerpt(text: str, place: int) -> tuple[str, str]:
    """The text around a place, and a line whose caret stands below its character, however wide letters are."""
    before, after = printable(text[:place]), printable(text[place:])
    while _columns(before) > AROUND:
        before = "…" + (before[2:] if before.startswith("…") else before[1:])
    while _columns(after) > AROUND:
        after = after[:-2] + "…"
    return before + after, " " * _columns(before) + "^"


def _columns(text: str) -> int:
    """The columns of a terminal that a text takes."""
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)
