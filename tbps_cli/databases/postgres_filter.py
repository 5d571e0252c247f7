"""A filter as a condition of PostgreSQL: from a syntax tree to SQL with bound values. `filtering.tree` has its meaning.

Texts are compared in the collation "C", which is the byte order of UTF-8. Beside each text column stands one with the
number that the text spells, or null. A condition that comes out as null lets nothing through, as `false` does, so plain
comparisons stand everywhere but below `not`: thus the planner can use B-trees for them. For the same reason a time that
is cut to the length of a literal is written as a range: it begins with 2026-01-31 if it is not before 2026-01-31 and
before 2026-01-32.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TypeAlias

from psycopg import sql

from tbps_cli.databases.texts import kept
from tbps_cli.errors import UsageError
from tbps_cli.filtering.masks import span_of
from tbps_cli.filtering.tree import (
    MOMENTS,
    And,
    Between,
    Compare,
    In,
    Leaf,
    Like,
    Not,
    Or,
    Tree,
    Value,
    looks_at,
    number,
)

TEXTS = ("path", "source", "person", "camera", "time", "clock", "track")
"""Fields with a text column of their name, and one NAME_number."""
NUMBERS = {"seconds": "seconds", "width": "width", "height": "height", "detection": "detection_rounded"}
"""Number fields -> their column."""
Asked: TypeAlias = tuple[str, tuple[str, ...]]
"""A condition and its values."""
_NEVER, _ALWAYS = sql.SQL("false"), sql.SQL("true")
_SIGNS = {"==": sql.SQL("="), "<": sql.SQL("<"), "<=": sql.SQL("<="), ">": sql.SQL(">"), ">=": sql.SQL(">=")}


class Condition:
    """A condition, and the values that go with it under the names by which it calls them."""

    def __init__(self, tree: Tree | None) -> None:
        self.values: dict[str, object] = {}
        self.sql: sql.Composable = _ALWAYS if tree is None else self._of(tree)
        self.of_paths = tree is not None and looks_at(tree) == {"path"}
        """Whether it looks at nothing but the path."""

    @property
    def asked(self) -> Asked:
        """The same for the same condition with the same values."""
        return self.sql.as_string(), tuple(map(str, self.values.values()))

    def by_paths(self) -> Condition:
        """The same for one that looks at nothing but the path, where few rows pass: their paths are found first.

        That takes their B-tree alone, a tenth of the table, which a pattern that begins with a star reads to its end.
        """
        found = copy(self)
        found.sql = sql.SQL("path = ANY(ARRAY(SELECT path FROM image WHERE {}))").format(self.sql)
        return found

    def _of(self, tree: Tree) -> sql.Composable:
        if isinstance(tree, And | Or):
            joint = sql.SQL(" AND ") if isinstance(tree, And) else sql.SQL(" OR ")
            return sql.SQL("({})").format(joint.join(map(self._of, tree.parts)))
        if isinstance(tree, Not):
            return sql.SQL("({} IS NOT TRUE)").format(self._of(tree.part))
        if tree.field == "score":
            raise UsageError("a database cannot be asked for the score.", "Use --min-score.")
        if isinstance(tree, Compare) and tree.op == "!=":
            return sql.SQL("({} IS NOT TRUE)").format(self._leaf(Compare(tree.field, "==", tree.value)))
        return self._leaf(tree)

    def _leaf(self, leaf: Leaf) -> sql.Composable:
        if isinstance(leaf, Between):
            return self._joined(leaf.field, ((">=", leaf.low), ("<=", leaf.high)), sql.SQL(" AND "))
        if isinstance(leaf, In):
            return self._among(leaf)
        if isinstance(leaf, Like):
            return self._like(leaf)
        return self._compared(leaf.field, leaf.op, leaf.value)

    def _joined(self, field: str, parts: Sequence[tuple[str, Value]], joint: sql.SQL) -> sql.Composable:
        return sql.SQL("({})").format(joint.join(self._compared(field, op, value) for op, value in parts))

    def _compared(self, field: str, op: str, value: Value) -> sql.Composable:
        if field in NUMBERS:
            return self._number(sql.Identifier(NUMBERS[field]), op, value)
        if field not in TEXTS:  # a field that no row has: unknown everywhere
            return _ALWAYS if value is None else _NEVER
        column = sql.Identifier(field)
        if value is None:
            return sql.SQL("{} IS NULL").format(column)
        as_text = self._text(field, column, op, value)
        if number(value) is None:
            return as_text
        spelt = sql.Identifier(f"{field}_number")
        as_number = self._number(spelt, op, value)
        if op == "==" and field not in MOMENTS:  # a text equal to one that spells a number spells one
            return as_number
        return sql.SQL("({} OR ({} IS NULL AND {}))").format(as_number, spelt, as_text)

    def _number(self, column: sql.Identifier, op: str, value: Value) -> sql.Composable:
        if value is None:
            return sql.SQL("{} IS NULL").format(column)
        found = number(value)
        if found is None:
            return _NEVER
        return sql.SQL("{} {} {}").format(column, _SIGNS[op], self._bound(found))

    def _text(self, field: str, column: sql.Identifier, op: str, value: Value) -> sql.Composable:
        span = span_of(field, value) if field in MOMENTS else None
        if span is None:
            return sql.SQL("{} {} {}").format(column, _SIGNS[op], self._bound(kept(str(value))))
        start, end = self._bound(span), self._bound(span[:-1] + chr(ord(span[-1]) + 1))
        if op == "==":
            return sql.SQL("({0} >= {1} AND {0} < {2})").format(column, start, end)
        sign, edge = {"<": ("<", start), "<=": ("<", end), ">": (">=", end), ">=": (">=", start)}[op]
        return sql.SQL("{} {} {}").format(column, _SIGNS[sign], edge)

    def _among(self, leaf: In) -> sql.Composable:
        """A list of plain texts is one array, so that thousands of them stay one comparison."""
        plain = [kept(value) for value in leaf.values if isinstance(value, str) and number(value) is None]
        if leaf.field not in TEXTS or leaf.field in MOMENTS or len(plain) < 2:
            return self._joined(leaf.field, [("==", value) for value in leaf.values], sql.SQL(" OR "))
        other = [value for value in leaf.values if not isinstance(value, str) or number(value) is not None]
        among = sql.SQL("{} = ANY({}::text[])").format(sql.Identifier(leaf.field), self._bound(plain))
        if not other:
            return among
        rest = self._joined(leaf.field, [("==", value) for value in other], sql.SQL(" OR "))
        return sql.SQL("({} OR {})").format(among, rest)

    def _like(self, leaf: Like) -> sql.Composable:
        if leaf.field not in TEXTS:
            return _NEVER
        escaped = kept(leaf.pattern).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        pattern = escaped.replace("*", "%").replace("?", "_")
        return sql.SQL("{} LIKE {}").format(sql.Identifier(leaf.field), self._bound(pattern))

    def _bound(self, value: object) -> sql.Placeholder:
        name = f"value{len(self.values)}"
        self.values[name] = value
        return sql.Placeholder(name)
