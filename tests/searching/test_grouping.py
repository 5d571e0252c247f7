"""One hit for each person, track, source, or set of images that look the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.encoder import FakeEncoder

from tbps_cli.errors import UsageError
from tbps_cli.features.rows import Row, Rows
from tbps_cli.searching.document import document, table
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.grouping import NEAR, grouping
from tbps_cli.searching.index import index
from tbps_cli.searching.orders import GroupedBy
from tbps_cli.searching.query import Query
from tbps_cli.searching.ranking import answers
from tbps_cli.searching.search import search


def gallery_of(rows: list[Row], seed: int = 0) -> Gallery:
    """A gallery with a random unit vector for each row."""
    vector_GE = np.random.default_rng(seed).normal(size=(len(rows), FakeEncoder.embed)).astype(np.float32)
    vector_GE /= np.maximum(np.linalg.norm(vector_GE, axis=1, keepdims=True), 1e-9)
    return Gallery("made", Roots(Path("made")), Rows.of(rows), vector_GE)


def seen(source: str, second: float, track: str | None, person: Any = None, time: str | None = None) -> Row:
    return Row(f"{source}#t={second}", person=person, time=time, source=source, seconds=second, track=track)


ROWS = [
    seen("a.mp4", 1.0, "1", 7, "2026-01-05T17:00:01"),
    seen("a.mp4", 2.0, "1", 7, "2026-01-05T17:00:02"),
    seen("a.mp4", 3.0, "2", 8),
    seen("b.mp4", 1.0, "1", 7),
    seen("b.mp4", 9.0, "1", 7),
    seen("b.mp4", 4.0, None),
    Row("plain.jpg"),
]


def named(hits) -> dict[str | None, int]:
    return {hit.group: hit.members for hit in hits}


def test_each_group_is_one_hit_with_its_best_image(model) -> None:
    gallery = gallery_of(ROWS)
    everything = search(model, gallery, "red")
    by_track = search(model, gallery, "red", group="track")
    assert sorted((hit.group or "", hit.members) for hit in by_track) == [
        ("", 1),
        ("", 1),
        ("a.mp4#track=1", 2),
        ("a.mp4#track=2", 1),
        ("b.mp4#track=1", 2),
    ]
    assert named(search(model, gallery, "red", group="person")) == {"7": 4, "8": 1, None: 1}
    assert named(search(model, gallery, "red", group="source")) == {"a.mp4": 3, "b.mp4": 3, "plain.jpg": 1}
    for hits in (by_track, search(model, gallery, "red", group="source")):
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert {hit.path: hit.score for hit in hits}.items() <= {hit.path: hit.score for hit in everything}.items()
    assert by_track[0].path == everything[0].path


@pytest.mark.parametrize("by", ["track", "source", "person"])
@pytest.mark.parametrize("options", [{}, {"where": "seconds < 40"}, {"per_group": 3}, {"top": 300}, {"sort": "time"}])
def test_the_best_groups_are_found_without_a_ranking_of_all(model, monkeypatch, by, options) -> None:
    draw = np.random.default_rng(3)
    rows = [
        seen(f"{number % 7}.mp4", float(number % 50), str(track) if track else None, number % 90 or None)
        for number, track in enumerate(draw.integers(0, 60, 3000).tolist())
    ]
    gallery, wanted = gallery_of(rows), {"top": 10, "group": by, "with_self": True} | options
    queries, best = [Query("red"), Query("a man")], Gallery.best
    asked = list[int]()
    monkeypatch.setattr(Gallery, "best", lambda *given: (asked.append(given[2]), best(*given))[1])
    found = answers(model, gallery, queries, **wanted)
    if wanted["top"] < 300:
        assert max(asked) <= 16 * wanted["top"], "so few images are ranked"
    groups = grouping(gallery, GroupedBy(by))
    monkeypatch.setattr(type(groups), "listed", False)
    every = answers(model, gallery, queries, **wanted)
    assert asked[-1] == len(rows)
    for mine, right in zip(found, every, strict=True):
        assert mine.hits == right.hits
        assert (mine.groups, mine.candidates) == (right.groups, right.candidates)


def test_one_group_of_nearly_all_images_does_not_hide_the_others(model) -> None:
    rows = [seen("a.mp4", float(number), "1") for number in range(2000)]
    rows += [seen("b.mp4", float(number), str(number)) for number in range(3)]
    gallery = gallery_of(rows)
    gallery.vector_GE[2000:] = -gallery.vector_GE[:2000].mean(axis=0)  # far down in any ranking
    hits = search(model, gallery, "red", group="track", top=3)
    assert [hit.members for hit in hits] == [2000, 1, 1]


def test_top_counts_groups_and_per_group_gives_more_of_each(model) -> None:
    gallery = gallery_of(ROWS)
    hits = search(model, gallery, "red", group="source", top=2, per_group=2)
    sources = [hit.group for hit in hits]
    assert len(set(sources)) == 2 and sources == sorted(sources, key=sources.index)
    assert all(sources.count(hit.group) == min(2, hit.members or 0) for hit in hits)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


def test_a_group_says_when_it_was_seen_first_and_last(model) -> None:
    spans = {hit.group: (hit.first, hit.last) for hit in search(model, gallery_of(ROWS), "red", group="track")}
    assert spans["a.mp4#track=1"] == ("2026-01-05T17:00:01", "2026-01-05T17:00:02")
    assert spans["b.mp4#track=1"] == (1.0, 9.0)
    assert {hit.first for hit in search(model, gallery_of(ROWS), "red")} == {None}


def test_members_are_those_that_passed_the_filter(model) -> None:
    gallery = gallery_of(ROWS)
    assert named(search(model, gallery, "red", group="source", where="seconds < 2.5")) == {"a.mp4": 2, "b.mp4": 1}
    lowest = sorted(hit.score for hit in search(model, gallery, "red"))[2]
    hits = search(model, gallery, "red", group="source", min_score=lowest)
    assert sum(hit.members for hit in hits) == 5
    by_score = search(model, gallery, "red", group="source", where=f"score >= {lowest}")
    assert named(by_score) == named(hits)


@pytest.mark.parametrize("by", ["person", "track", "source"])
def test_what_no_image_has_cannot_group_them(model, by: str) -> None:
    with pytest.raises(UsageError, match=f"--group {by}: no image here has a {by}") as caught:
        search(model, gallery_of([Row("a.jpg"), Row("b.jpg")]), "red", group=by)
    assert caught.value.hint == "Here images can be grouped by near-duplicate."
    with pytest.raises(UsageError, match="no image here has") as caught:
        search(model, gallery_of([Row("a.jpg", person=3)]), "red", group="track")
    assert caught.value.hint == "Here images can be grouped by person or near-duplicate."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "camera"}, "--group camera: there is no such thing"),
        ({"per_group": 2}, "--per-group needs --group"),
        ({"group": "person", "per_group": 0}, "at least one image of a group"),
        ({"sort": "name"}, "--sort name: there is no such thing"),
        ({"sort": "time"}, "no image here has a time"),
    ],
)
def test_senseless_wishes_are_usage_errors(model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        search(model, gallery_of([Row("a.jpg", person=3)]), "red", **options)


def test_images_that_look_the_same_are_one_hit(model, photos: Path, painted) -> None:
    for copy in range(3):
        painted(photos / f"red-{copy}.png", "red", size=(20 + copy, 40))
    gallery = index(model, photos)
    hits = search(model, gallery, "red", group="near-duplicate")
    assert [hit.members for hit in hits] == [4, 1, 1]
    assert hits[0].group == hits[0].path
    assert len(search(model, gallery, "red", group="near-duplicate", top=1, per_group=9)) == 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 6), st.booleans())
def test_look_alikes_are_those_of_a_slow_loop(seed: int, rows: int, kinds: int, half: bool) -> None:
    rng = np.random.default_rng(seed)
    vector_GE = (rng.normal(size=(kinds, 6))[rng.integers(kinds, size=rows)] + rng.normal(size=(rows, 6)) / 7).astype(
        "f4"
    )
    vector_GE /= np.linalg.norm(vector_GE, axis=1, keepdims=True)
    made = Rows.of([Row(f"{place}.jpg") for place in range(rows)])
    gallery = Gallery("made", Roots(Path("made")), made, vector_GE.astype("f2") if half else vector_GE)
    index_K = rng.permutation(rows)[: rng.integers(1, rows + 1)]
    found = [group.place_M.tolist() for group in grouping(gallery, GroupedBy.near_duplicate).groups(index_K)]
    rest, expected = list(range(len(index_K))), []
    wide = gallery.vector_GE.astype(np.float32)
    while rest:
        alike = [place for place in rest if place == rest[0] or wide[index_K[place]] @ wide[index_K[rest[0]]] >= NEAR]
        expected.append(alike)
        rest = [place for place in rest if place not in alike]
    assert found == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["", "1", "2"]), st.sampled_from(["a.mp4", "b.mp4"])), min_size=1, max_size=20)
)
def test_tracks_are_those_of_a_slow_loop(tracks: list[tuple[str, str]]) -> None:
    rows = [seen(source, place, track or None) for place, (track, source) in enumerate(tracks)]
    gallery = gallery_of(rows)
    if not any(track for track, _ in tracks):
        return
    index_K = np.random.default_rng(len(rows)).permutation(len(rows))
    expected: dict[Any, list[int]] = {}
    for place, row in enumerate(index_K.tolist()):
        track, source = tracks[row]
        expected.setdefault((track, source) if track else row, []).append(place)
    groups = grouping(gallery, GroupedBy.track)
    assert [group.place_M.tolist() for group in groups.groups(index_K)] == list(expected.values())
    assert groups.count(index_K) == len(expected)


def test_the_best_can_be_shown_in_the_order_of_their_times(model) -> None:
    gallery = gallery_of(ROWS)
    best = search(model, gallery, "red", top=5)
    hits = search(model, gallery, "red", top=5, sort="time")
    assert {hit.path for hit in hits} == {hit.path for hit in best}
    times = [hit.time for hit in hits if hit.time]
    assert times == sorted(times) and [hit.time for hit in hits][: len(times)] == times
    assert {hit.rank: hit.score for hit in hits} == {hit.rank: hit.score for hit in best}


def test_a_document_and_a_table_know_the_groups(model) -> None:
    gallery = gallery_of(ROWS)
    answer = answers(model, gallery, [Query("red")], group="track", top=2)[0]
    made = document(answer, gallery, "run")
    assert made["groups"] == 5
    assert [(hit["group"], hit["members"]) for hit in made["hits"]] == [(hit.group, hit.members) for hit in answer.hits]
    assert table([answer]).splitlines()[0].endswith(",track,group,members,percentile,z,probability")
    plain = answers(model, gallery, [Query("red")])[0]
    assert "groups" not in document(plain, gallery, "run") and "group" not in document(plain, gallery, "run")["hits"][0]
    assert table([plain]).splitlines()[0].endswith(",track,percentile,z,probability")


def test_an_empty_gallery_has_no_groups(model) -> None:
    gallery = gallery_of([])
    assert search(model, gallery, "red", group="near-duplicate", sort="time") == []
