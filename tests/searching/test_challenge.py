"""Answers in the form of the AI City Challenge, from queries in its form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tbps_cli.errors import DataError, UsageError
from tbps_cli.features.rows import Rows
from tbps_cli.searching.challenge import check_tracks, ranked_tracks
from tbps_cli.searching.index import index
from tbps_cli.searching.queries import read_queries
from tbps_cli.searching.query import Query
from tbps_cli.searching.ranking import answers


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def gallery(model, photos: Path):
    """Each image is a track of its own, of the video v.mp4."""
    made = index(model, photos)
    rows = Rows.of(replace(row, track=f"t-{row.path[0]}") for row in made.rows)
    return replace(made, rows=rows)


def test_queries_are_read_as_the_challenge_has_them(tmp_path) -> None:
    content = {"q-1": ["red", "a red one"], "q-2": {"nl": ["blue"], "nl_other_views": ["x"]}, "q-3": "green"}
    queries = read_queries(write(tmp_path / "q.json", content))
    assert [query.id for query in queries] == ["q-1", "q-2", "q-3"]
    assert [[term.what for term in query.terms] for query in queries] == [["red", "a red one"], ["blue"], ["green"]]


@pytest.mark.parametrize("value", [[], 5, [""], {"text": "red"}, None])
def test_an_id_without_sentences_is_named(tmp_path, value) -> None:
    with pytest.raises(DataError, match=r"q\.json: q-1 is not a list of sentences"):
        read_queries(write(tmp_path / "q.json", {"q-1": value}))


def test_the_answer_is_an_object_of_ids_and_ranked_tracks(model, gallery, tmp_path) -> None:
    queries = read_queries(write(tmp_path / "q.json", {"q-1": ["red"], "q-2": ["blue"]}))
    made = ranked_tracks(answers(model, gallery, queries, group="track", top=100), gallery)
    assert list(made) == ["q-1", "q-2"]
    assert made["q-1"][0] == "t-r" and made["q-2"][0] == "t-b"
    assert all(sorted(tracks) == ["t-b", "t-g", "t-r"] for tracks in made.values())


def test_a_track_is_named_with_its_source_where_names_are_not_enough(model, gallery) -> None:
    rows = [replace(row, source=f"{row.path}.mp4", track="1") for row in gallery.rows]
    several = replace(gallery, rows=Rows.of(rows))
    (tracks,) = ranked_tracks(answers(model, several, [Query("red")], group="track", top=9), several).values()
    assert tracks[0] == "red.png.mp4#1" and len(tracks) == 3


def test_a_gallery_without_tracks_is_an_error(model, photos: Path) -> None:
    with pytest.raises(UsageError, match=r"--format aicity: no image of .* belongs to a track"):
        check_tracks(index(model, photos))
