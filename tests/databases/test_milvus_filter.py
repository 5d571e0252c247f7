"""Filters as expressions of Milvus, without a server: what they let through, and what stands in them."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.galleries import odd_rows
from support.trees import ASKED, trees

from tbps_cli.databases.milvus_filter import asked_fields, bounds, kept_fields
from tbps_cli.databases.milvus_filter import passing as asked_here
from tbps_cli.features.asked import columns_of
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.tree import Compare, In, Like, Tree, render

FIELDS = (*(field for field in ASKED if field != "score"), "source", "width", "height", "detection", "split")
ROWS = odd_rows(60)
KEPT = kept_fields(ROWS)
WORDS = re.compile(
    r"(?:\s|[()\[\],]|==|!=|<=|>=|<|>|and|or|not|in|true|false|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
    r"|(?:path|source|person|camera|time|clock|track|seconds|width|height|detection)(?:_spelt|_number|_known)?)*"
)


def passing(expression: str) -> list[bool]:
    """Which rows an expression lets through: what we write is Python as well, but for two names."""
    code = compile(expression, "expression", "eval")
    return [bool(eval(code, {"__builtins__": {}, "true": True, "false": False}, row)) for row in KEPT]


@settings(max_examples=300, deadline=None)
@given(trees(FIELDS))
@example(In("person", tuple(map(str, range(30)))))
@example(Compare("camera", "<", 1e300))
def test_an_expression_lets_through_what_the_tree_means_or_lies_around_it(tree: Tree) -> None:
    found, right = bounds(tree), mask(tree, columns_of(ROWS)).tolist()
    lower, upper = passing(found.lower), passing(found.upper)
    assert all(fits or not sure for sure, fits in zip(lower, right, strict=True)), render(tree)
    assert all(possible or not fits for possible, fits in zip(upper, right, strict=True)), render(tree)
    assert not found.exact or lower == right
    asked = [{name: row[name] for name in asked_fields(tree)} for row in KEPT]
    assert asked_here(asked, tree).tolist() == right


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=20), st.sampled_from(["==", "like", "in"]))
@example('" or path != "', "==")
@example("\\", "like")
@example("\udcff", "in")
def test_nothing_that_somebody_writes_stands_in_an_expression(text: str, kind: str) -> None:
    leaf = {"==": Compare("camera", "==", text), "like": Like("camera", text + "*"), "in": In("camera", (text, "b"))}
    expression = bounds(leaf[kind]).upper
    outside, *_ = [re.sub(r'"[0-9a-f]*g?"', " ", expression)]
    assert WORDS.fullmatch(outside), expression


def test_only_what_stands_in_the_middle_or_at_the_end_of_a_text_is_not_asked_of_the_server() -> None:
    for pattern, exact in {
        "a*": True,
        "a**": True,
        "a": True,
        "*": True,
        "*a": False,
        "a*b": False,
        "a?": False,
    }.items():
        assert bounds(Like("path", pattern)).exact == exact, pattern
