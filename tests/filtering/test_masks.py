"""A filter over all rows at once gives what it gives row by row."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.filters import columns_of, fits_row
from support.trees import ASKED_TIMES, CLOCKS, PLAIN_NUMBERS, TEXTS, TIMES, joined, leaves, trees

from tbps_cli.errors import UsageError
from tbps_cli.features.rows import Row, Rows
from tbps_cli.filtering.columns import Columns, Texts, clock_of
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.parse import parse
from tbps_cli.filtering.tree import FIELDS, MOMENTS, Between, Compare, In, Like, Tree, literal, render
from tbps_cli.searching.gallery import Gallery, Roots

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "path": TEXTS,
            "person": st.none() | TEXTS | st.integers(-3, 12),
            "camera": st.none() | st.sampled_from(["c1", "c2"]),
            "time": st.none() | TIMES,
            "seconds": st.none() | PLAIN_NUMBERS,
            "score": st.none() | PLAIN_NUMBERS,
            "track": st.none(),
        }
    ),
    max_size=12,
)


@settings(max_examples=400, deadline=None)
@given(trees(), ROWS)
def test_a_mask_is_what_each_row_says(tree: Tree, rows: list[dict[str, Any]]) -> None:
    found = mask(tree, columns_of(rows)).tolist()
    assert found == [fits_row(tree, row) for row in rows], render(tree)


@st.composite
def plain_leaves(draw: st.DrawFn) -> Tree:
    """Comparisons that the reader takes as they are: it spells times alike, and refuses ranges that end too early."""
    leaf = draw(leaves().filter(lambda leaf: not isinstance(leaf, Compare | In | Like) or leaf.field not in MOMENTS))
    if not isinstance(leaf, Between):
        return leaf
    return Between("seconds", *sorted((draw(PLAIN_NUMBERS), draw(PLAIN_NUMBERS))))


@settings(max_examples=300, deadline=None)
@given(st.recursive(plain_leaves(), joined, max_leaves=6))
def test_what_a_tree_is_rendered_as_is_read_back(tree: Tree) -> None:
    assert parse(render(tree)).tree == tree


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(MOMENTS)), ASKED_TIMES | CLOCKS | st.integers(0, 24).map(str))
def test_a_time_that_was_read_is_read_back(field: str, value: str) -> None:
    with contextlib.suppress(UsageError):
        tree = parse(f"not {field} in ({literal(value)})").tree
        assert parse(render(tree)).tree == tree


def test_many_different_texts_are_kept_as_they_are_and_few_are_coded() -> None:
    many = Texts.of(np.array([f"{place}.jpg".encode() for place in range(1000)]))
    few = Texts.of(np.array([b"c1", b"c2", b""] * 1000))
    assert many.code_G is None and len(many.text_V) == 1000
    assert few.code_G is not None and few.text_V.tolist() == [b"c1", b"c2", b""]


@pytest.mark.parametrize("texts", [[], [b""], [b"2026"], [b"2026-01-05T17:05:01", b"", b"dusk at the gate, west"]])
def test_a_time_of_day_is_known_where_a_time_is_written_out(texts: list[bytes]) -> None:
    clock = clock_of(Texts(np.array(texts, "S") if texts else np.zeros(0, "S1")))
    assert clock.text_V.tolist() == [b"17:05:01" if text.startswith(b"2026-01-05T") else b"" for text in texts]


def test_a_column_is_made_once() -> None:
    made = []

    def make() -> Texts:
        made.append("camera")
        return Texts.of(np.array([b"c1", b"c2"]))

    columns = Columns(2, {"camera": make})
    for _ in range(3):
        assert mask(parse("camera == 'c2'").tree, columns).tolist() == [False, True]
        assert columns.scored(np.array([0.5, 0.1])).knows("camera")
    assert made == ["camera"]


def test_a_score_of_32_bits_is_compared_as_it_is() -> None:
    columns = Columns(1, {}).scored(np.array([0.1], np.float32))
    assert mask(parse("score > 0.1").tree, columns).tolist() == [float(np.float32(0.1)) > 0.1]


def test_a_day_is_all_of_it_in_every_comparison() -> None:
    rows = [{"time": f"2026-01-{day:02d}T{hour:02d}:00:00"} for day in (4, 5, 6) for hour in (0, 23)]
    for text, right in {
        "time == 2026-01-05": [0, 0, 1, 1, 0, 0],
        "time != 2026-01-05": [1, 1, 0, 0, 1, 1],
        "time < 2026-01-05": [1, 1, 0, 0, 0, 0],
        "time <= 2026-01-05": [1, 1, 1, 1, 0, 0],
        "time > 2026-01-05": [0, 0, 0, 0, 1, 1],
        "time >= 2026-01-05": [0, 0, 1, 1, 1, 1],
        "time between 2026-01-04 and 2026-01-05": [1, 1, 1, 1, 0, 0],
        "time in (2026-01-04, 2026-01-06T23)": [1, 1, 0, 0, 0, 1],
        "time >= 2026-01-05T23:00": [0, 0, 0, 1, 1, 1],
    }.items():
        assert mask(parse(text).tree, columns_of(rows)).astype(int).tolist() == right, text


def test_a_filter_over_a_million_rows_takes_milliseconds() -> None:
    """Goal: 30 ms. Measured on one core: 0.2 to 21 ms; the limit here leaves room for a busy machine."""
    rows = 1_000_000
    path_G = np.array([b"gate-%d/cam%d/%07d.jpg" % (row % 7, row % 13, row) for row in range(rows)])
    time_G = np.array(
        [b"2026-01-%02dT%02d:%02d:%02d" % (row % 28 + 1, row % 24, row % 60, row % 59) for row in range(rows)]
    )
    columns = Columns(rows, {"path": lambda: Texts.of(path_G), "time": lambda: Texts.of(time_G)})
    tree = parse('path like "gate-2/*" and 2026-01-05 <= time < 2026-01-12T17:30 and 8:00 <= clock < 18:00').tree
    count = int(mask(tree, columns).sum())
    assert 0 < count < rows
    start = time.process_time()
    mask(tree, columns)
    took = time.process_time() - start
    assert took < 0.2, f"{took * 1000:.0f} ms"


def test_a_gallery_of_crops_can_be_asked_for_everything_known_of_them() -> None:
    crop = Row("a.mp4#t=2", 1, 2, "", "c1", "2026-01-05 17:05:00", 12, "a.mp4", 2.5, (0, 0, 40, 96), "7", 0.9)
    rows = Rows.of([crop, Row("b.jpg", person="x")])
    gallery = Gallery("photos", Roots(Path()), rows, np.zeros((2, 1)), split="test")
    for text in (
        'source == "a.mp4"',
        "2 < seconds <= 2.5",
        "track == 7",
        "width == 40 and height == 96",
        "detection == 0.9",
        "clock == 17:05 and time == 2026-01-05",
        "person == 12",
        'camera == "c1"',
        'path like "*#t=2"',
    ):
        assert mask(parse(f"{text} and split == 'test'").tree, gallery.columns).tolist() == [True, False], text
        assert mask(parse(f"not ({text})").tree, gallery.columns).tolist() == [False, True], text
    assert set(gallery.columns.known()) == set(FIELDS)
    nothing = Gallery("photos", Roots(Path()), Rows.of([]), np.zeros((0, 1)))
    assert nothing.columns.known() == ("score",)
