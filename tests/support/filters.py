"""Rows of a gallery as plain dictionaries: their columns, and a filter asked row by row, slowly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tbps_cli.filtering.columns import Column, Columns, Numbers, Texts, times_alike
from tbps_cli.filtering.tree import NUMBERS, And, Between, Compare, In, Like, Not, Or, Tree, Value

NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", re.ASCII)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """The columns of these rows, field -> value; a field that is not there is unknown."""

    def make(field: str) -> Column:
        values = [row.get(field) for row in rows]
        if field in NUMBERS:
            return Numbers(np.array([np.nan if value is None else value for value in values], np.float64))
        texts = [b"" if value is None else str(value).encode() for value in values]
        text_G = np.array(texts or [b""], "S")[: len(rows)]
        return Texts.of(times_alike(text_G) if field == "time" else text_G)

    fields = sorted({field for row in rows for field in row} - {"clock"})
    return Columns(len(rows), {field: lambda field=field: make(field) for field in fields})


def fits_row(tree: Tree, row: Mapping[str, Any]) -> bool:
    """Whether one row passes, by the words of `tree`: no arrays, nothing shared with the masks."""
    if isinstance(tree, And):
        return all(fits_row(part, row) for part in tree.parts)
    if isinstance(tree, Or):
        return any(fits_row(part, row) for part in tree.parts)
    if isinstance(tree, Not):
        return not fits_row(tree.part, row)
    found = value_of(tree.field, row)
    if isinstance(tree, Compare):
        if tree.op == "==":
            return is_same(tree.field, found, tree.value)
        if tree.op == "!=":
            return not is_same(tree.field, found, tree.value)
        return found is not None and in_order(tree.field, found, tree.op, tree.value)
    if isinstance(tree, In):
        return any(is_same(tree.field, found, value) for value in tree.values)
    if found is None:
        return False
    if isinstance(tree, Between):
        return in_order(tree.field, found, ">=", tree.low) and in_order(tree.field, found, "<=", tree.high)
    assert isinstance(tree, Like)
    return like(str(found), tree.pattern)


def value_of(field: str, row: Mapping[str, Any]) -> Any:
    """The value of a row; the time of day is a part of the time."""
    value = row.get(field)
    if field == "clock":
        time = value_of("time", row)
        written = time is not None and re.match(r"^.{4}-.{2}-.{2}T.{2}:.{2}", str(time), re.DOTALL)
        return str(time)[11:] if written else None
    if field == "time" and isinstance(value, str) and re.match(r".{4}-.{2}-.{2} ..", value, re.DOTALL):
        return value[:10] + "T" + value[11:]
    return None if value == "" else value


def like(text: str, pattern: str) -> bool:
    """A pattern of * and ?, tried by going through both."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return like(text, pattern[1:]) or (bool(text) and like(text[1:], pattern))
    return bool(text) and pattern[0] in ("?", text[0]) and like(text[1:], pattern[1:])


def is_same(field: str, found: Any, value: Value) -> bool:
    """Equality; none is equal to none alone."""
    if found is None or value is None:
        return found is value
    left, right = sides(field, found, value)
    return bool(left == right)


def in_order(field: str, found: Any, op: str, value: Value) -> bool:
    """< <= > >= of a known value."""
    left, right = sides(field, found, value)
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[op]


def sides(field: str, found: Any, value: Value) -> tuple[Any, Any]:
    """Both sides as what they are compared as: numbers, or bytes of UTF-8, times cut to what was asked."""
    if NUMBER.fullmatch(str(found)) and NUMBER.fullmatch(str(value)):
        return float(found), float(str(value))
    left, right = str(found), str(value)
    if field == "time" and re.fullmatch(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?)?)?", right, re.ASCII):
        left = left[: len(right)]
    if field == "clock":
        left = left[: len(right)]
    return left.encode(), right.encode()
