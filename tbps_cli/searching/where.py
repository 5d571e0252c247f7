"""A small language that says which images may be hits: `camera == "c1" and time >= "2026-01-01"`.

Comparisons `== != < <= > >=`, `like` (with * and ?), `in (...)`, joined by `and`, `or`, `not` and
brackets. Fields are what is known of an image. The text is parsed into closures here; nothing in it
is ever executed. A value that is unknown fits no comparison but `== none` and `!= ...`; a field of which a whole
gallery has no values is an error (`require`), since an empty answer would look like "nobody fits".
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import translate
from typing import Any

from tbps_cli.errors import UsageError

FIELDS = ("path", "person", "camera", "time", "split", "score")
EXAMPLE = 'For example: --where \'camera == "c1" and path like "night/*"\''
MAX_LENGTH = 2_000
"""Characters."""
MAX_DEPTH = 40
"""Brackets and `not`s inside each other."""

Row = Mapping[str, Any]
Test = Callable[[Row], bool]

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w.])
    |(?P<word>[A-Za-z_]\w*)
    |(?P<sign>==|!=|<=|>=|<|>|=|\(|\)|,))""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", re.ASCII)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Where:
    """A filter, ready to be asked."""

    text: str
    fields: frozenset[str]
    """Those it looks at."""
    needed: frozenset[str]
    """Those it compares with a value, not only with `none`."""
    test: Test

    def __call__(self, row: Row) -> bool:
        """Whether an image with these values (field name -> value) may be a hit."""
        return self.test(row)


def parse(text: str) -> Where:
    """The filter that a text means. Raises UsageError naming the place where it stops making sense."""
    if len(text) > MAX_LENGTH:
        raise UsageError(f"--where: longer than {MAX_LENGTH:,} characters.", EXAMPLE)
    parser = _Parser(text, _tokens(text))
    test = parser.either()
    parser.expect_end()
    return Where(text, frozenset(parser.fields), frozenset(parser.needed), test)


def require(where: Where, knows: Callable[[str], bool]) -> None:
    """Raise UsageError when a field is compared that no image has any value of.

    knows: whether any image of the gallery has a value of a field.
    """
    for field in sorted(where.needed - {"score"}):
        if not knows(field):
            there = [name for name in FIELDS if name == "score" or knows(name)]
            raise UsageError(
                f"--where: no image here has a {field}.", f"What is known of them: {', '.join(there)}. {EXAMPLE}"
            )


@dataclass(frozen=True)
class _Token:
    kind: str
    """text, number, word, sign or end."""
    value: Any
    place: int

    @property
    def shown(self) -> str:
        return "the end" if self.kind == "end" else f"{self.value!r}"


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            raise UsageError(f"--where: not understood {_at(text, start)}.", EXAMPLE)
        kind = match.lastgroup or ""
        found.append(_Token(kind, _value(kind, match[kind]), match.start(kind)))
        place = match.end()
    return [*found, _Token("end", "", end)]


def _at(text: str, place: int) -> str:
    """The place of a mistake: its number, and the text around it with a caret before the character."""
    around = f"{text[max(0, place - 40) : place]}^{text[place : place + 40]}"
    return f"(character {place + 1}: {around!r})"


def _value(kind: str, raw: str) -> Any:
    if kind == "number":
        return float(raw) if set(raw) & set(".eE") else int(raw)
    return re.sub(r"\\(.)", r"\1", raw[1:-1]) if kind == "text" else raw


class _Parser:
    """either := both ("or" both)* · both := one ("and" one)* · one := "not" one | (either) | comparison."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self.text = text
        self.tokens = tokens
        self.fields: set[str] = set()
        self.needed: set[str] = set()
        self.depth = 0

    def either(self) -> Test:
        tests = [self.both()]
        while self._word("or"):
            tests.append(self.both())
        return tests[0] if len(tests) == 1 else lambda row: any(test(row) for test in tests)

    def both(self) -> Test:
        tests = [self.one()]
        while self._word("and"):
            tests.append(self.one())
        return tests[0] if len(tests) == 1 else lambda row: all(test(row) for test in tests)

    def one(self) -> Test:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UsageError(f"--where: more than {MAX_DEPTH} brackets or nots inside each other.", EXAMPLE)
        if self._word("not"):
            denied = self.one()
            test: Test = lambda row: not denied(row)  # noqa: E731
        elif self._sign("("):
            test = self.either()
            self._expect(")")
        else:
            test = self.comparison()
        self.depth -= 1
        return test

    def comparison(self) -> Test:
        field = self._field()
        if self._word("like"):
            self.needed.add(field)
            pattern = _like(str(self._literal()))
            return lambda row: row.get(field) is not None and pattern.match(str(row[field])) is not None
        if self._word("not"):
            if not self._word("in"):
                self._fail("in")
            chosen = self._list(field)
            return lambda row: not any(same(row.get(field), value) for value in chosen)
        if self._word("in"):
            chosen = self._list(field)
            return lambda row: any(same(row.get(field), value) for value in chosen)
        sign = self._comparison_sign()
        value = self._literal_for(field, sign)
        if value is not None:
            self.needed.add(field)
        return _compared(field, sign, value)

    def expect_end(self) -> None:
        if self.tokens[0].kind != "end":
            self._fail("and, or, or the end")

    def _field(self) -> str:
        token = self.tokens[0]
        if token.kind != "word":
            self._fail("a field (" + ", ".join(FIELDS) + ")")
        name = str(token.value).lower()
        if name not in FIELDS:
            near = get_close_matches(name, FIELDS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Fields: {', '.join(FIELDS)}. {EXAMPLE}"
            raise UsageError(f"--where: there is no field {token.value!r} {_at(self.text, token.place)}.", hint)
        self.fields.add(name)
        del self.tokens[0]
        return name

    def _comparison_sign(self) -> str:
        token = self.tokens[0]
        sign = "==" if token.value == "=" else str(token.value)
        if token.kind != "sign" or sign not in _ORDER:
            self._fail("a comparison (== != < <= > >= like in)")
        del self.tokens[0]
        return sign

    def _list(self, field: str) -> list[Any]:
        self.needed.add(field)
        self._expect("(")
        values = [self._literal()]
        while self._sign(","):
            values.append(self._literal())
        self._expect(")")
        return values

    def _literal(self) -> Any:
        token = self.tokens[0]
        nothing = token.kind == "word" and str(token.value).lower() in ("none", "null")
        if token.kind not in ("text", "number") and not nothing:
            self._fail("a value: a number, none, or a text in quotes")
        del self.tokens[0]
        return None if nothing else token.value

    def _literal_for(self, field: str, sign: str) -> Any:
        """A value that the field can be compared with: a score is a number, and times are ordered by their digits."""
        place = self.tokens[0].place
        value = self._literal()
        if field == "score" and isinstance(value, str) and _number(value) is None:
            raise UsageError(f"--where: a score is a number {_at(self.text, place)}.", "For example: score > 0.3")
        if field == "time" and sign not in ("==", "!=") and isinstance(value, str) and not re.search(r"\d", value):
            raise UsageError(f"--where: not a time {_at(self.text, place)}.", 'For example: time >= "2026-01-31T08:00"')
        return value

    def _word(self, word: str) -> bool:
        return self._take("word", word)

    def _sign(self, sign: str) -> bool:
        return self._take("sign", sign)

    def _take(self, kind: str, value: str) -> bool:
        token = self.tokens[0]
        if token.kind != kind or str(token.value).lower() != value:
            return False
        del self.tokens[0]
        return True

    def _expect(self, sign: str) -> None:
        if not self._sign(sign):
            self._fail(sign)

    def _fail(self, expected: str) -> None:
        token = self.tokens[0]
        raise UsageError(
            f"--where: expected {expected} instead of {token.shown} {_at(self.text, token.place)}.",
            EXAMPLE,
        )


def _like(pattern: str) -> re.Pattern[str]:
    """* is any characters, ? is one; brackets, which fnmatch would take for a choice, are themselves."""
    return re.compile(translate(pattern.replace("[", "[[]")))


def _compared(field: str, sign: str, value: Any) -> Test:
    if sign == "==":
        return lambda row: same(row.get(field), value)
    if sign == "!=":
        return lambda row: not same(row.get(field), value)
    order = _ORDER[sign]
    if value is None:
        raise UsageError(f"--where: {field} {sign} none makes no sense.", "Only == none and != none do.")

    def test(row: Row) -> bool:
        found = row.get(field)
        if found is None:
            return False
        numbers = _number(found), _number(value)
        return order(*numbers) if None not in numbers else order(str(found), str(value))

    return test


def same(found: Any, value: Any) -> bool:
    """Equality as people mean it: the number 12 and the text "12" are one person."""
    if found is None or value is None:
        return found is value
    numbers = _number(found), _number(value)
    return numbers[0] == numbers[1] if None not in numbers else str(found) == str(value)


def _number(value: Any) -> float | None:
    """The number that a value is or spells; a text like "nan" is a name."""
    return float(value) if isinstance(value, int | float) or _NUMBER.fullmatch(str(value)) else None
