"""The line locator against texts whose lines are known, and against tomllib on invented ones."""

from __future__ import annotations

import json
import tomllib

from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.recipe.toml_positions import key_lines

TEXT = '''\
# a comment with = and [brackets]
extends = "irra"   # [no] = header

[data]
name = "cuhk # pedes"
image_size = [
  384,  # height = 384
  128,
]
"quoted key" = 'a = b'

[method.tower]
width = 64
a.b . c = { x = 1, "y z" = [ { deep = 2 } ],
  w = 3 } # over two lines
note = """
[not.a.table]
key = 1
"""
other = \'\'\'
x = "
\'\'\'
last = 1979-05-27T07:32:00Z
'''.replace("\n  w = 3 } # over two lines", " w = 3 } # one line")


def test_every_key_is_found_on_its_line() -> None:
    assert key_lines(TEXT) == {
        ("extends",): 2,
        ("data",): 4,
        ("data", "name"): 5,
        ("data", "image_size"): 6,
        ("data", "quoted key"): 10,
        ("method", "tower"): 12,
        ("method", "tower", "width"): 13,
        ("method", "tower", "a", "b", "c"): 14,
        ("method", "tower", "a", "b", "c", "x"): 14,
        ("method", "tower", "a", "b", "c", "y z"): 14,
        ("method", "tower", "a", "b", "c", "y z", "deep"): 14,
        ("method", "tower", "a", "b", "c", "w"): 14,
        ("method", "tower", "note"): 15,
        ("method", "tower", "other"): 19,
        ("method", "tower", "last"): 22,
    }


def test_an_array_of_tables_and_windows_line_ends_are_understood() -> None:
    assert key_lines("[[run]]\r\nx = 1\r\n\r\n[[run]]\r\ny = 2\r\n") == {
        ("run",): 1,
        ("run", "x"): 2,
        ("run", "y"): 5,
    }


PLAIN = st.recursive(
    st.booleans() | st.integers(-99, 99) | st.text(max_size=8).filter(lambda text: text.isprintable()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.c#=[]\"' ", max_size=4), inner, max_size=3),
    max_leaves=8,
)


def inline(value: object) -> str:
    """A value on one line; JSON's strings and lists are TOML's."""
    if not isinstance(value, dict):
        return (
            f"[{', '.join(map(inline, value))}]" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)
        )
    return "{" + ", ".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items()) + "}"


@settings(deadline=None)
@given(st.dictionaries(st.text("xyz. #=['\"", max_size=4), PLAIN, max_size=5))
def test_the_keys_of_any_table_are_those_that_tomllib_reads(table: dict[str, object]) -> None:
    text = "\n".join(f"{json.dumps(key)} = {inline(value)}" for key, value in table.items())
    parsed = tomllib.loads(text)
    assert parsed == table
    lines = key_lines(text)
    assert [lines[(key,)] for key in table] == list(range(1, len(table) + 1))
