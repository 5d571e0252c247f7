"""From videos to answers on the drawn street, with its true boxes: every row is the person, place and time it says."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from support.encoder import FakeEncoder
from support.street import TrueBoxes, truth_of

from tbps_cli.footage import detector as detectors
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.index import index
from tbps_cli.searching.index_state import FootageSettings
from tbps_cli.searching.query import Query
from tbps_cli.searching.search import search_all

EVERY = 1.0


@pytest.fixture
def gallery(small_street: Path, model: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    """The index of the street's clips."""
    detector = TrueBoxes(small_street)
    monkeypatch.setattr(detectors, "open_detector", lambda *_, **__: detector)
    return index(model, small_street / "clips", footage=FootageSettings(every=EVERY))


def looked_at(clip: Path) -> list[dict]:
    """The true frames at the interval of the index."""
    truth = truth_of(clip)
    return [frame for frame in truth["frames"] if frame["frame"] % round(EVERY * truth["rate"]) == 0]


def test_everybody_who_can_be_seen_is_a_row_with_place_time_and_camera(small_street, gallery):
    rows = [gallery.rows[place] for place in range(len(gallery))]
    found = {(row.source, round(row.seconds, 3), row.box): row for row in rows}
    expected = 0
    for clip in small_street.glob("clips/*.mp4"):
        truth = truth_of(clip)
        start = datetime.fromisoformat(truth["start"])
        for frame in looked_at(clip):
            for box in frame["boxes"]:
                if box["visible"] < 0.3 or min(box["box"][2:]) < 8:
                    continue
                row = found[clip.name, round(frame["seconds"], 3), tuple(box["box"])]
                assert row.camera == truth["camera"]
                assert datetime.fromisoformat(row.time) == start + timedelta(seconds=frame["seconds"])
                assert row.detection == pytest.approx(box["visible"], abs=1e-4)
                expected += 1
    assert len(rows) == expected > 30


def test_a_row_shows_the_pixels_of_its_box(small_street, gallery):
    import av

    row = gallery.rows[len(gallery) // 2]
    with av.open(str(small_street / "clips" / row.source)) as container:
        images = [frame.to_image() for frame in container.decode(video=0) if abs(frame.time - row.seconds) < 1e-3]
    x, y, wide, high = row.box
    assert np.array_equal(np.asarray(gallery.image_of(row)), np.asarray(images[0].crop((x, y, x + wide, y + high))))


def test_tracks_mostly_keep_to_one_person(small_street, gallery):
    persons: dict[tuple, list[int]] = {}
    for clip in small_street.glob("clips/*.mp4"):
        true = {
            (round(frame["seconds"], 3), tuple(box["box"])): box["person"]
            for frame in looked_at(clip)
            for box in frame["boxes"]
        }
        for place in range(len(gallery)):
            row = gallery.rows[place]
            if row.source == clip.name:
                persons.setdefault((row.source, row.track), []).append(true[round(row.seconds, 3), row.box])
    same = sum(max(seen.count(person) for person in set(seen)) for seen in persons.values())
    share = same / len(gallery)
    assert share >= 0.85, f"{share:.0%} of the rows show the person that most of their track shows"


def test_filters_by_camera_and_time_let_in_exactly_what_was_filmed_then(small_street, gallery, model):
    lines = (small_street / "queries.jsonl").read_text("utf-8").splitlines()
    asked = [query for query in map(json.loads, lines) if "where" in query]
    start_of = {truth_of(clip)["clip"]: truth_of(clip) for clip in small_street.glob("clips/*.mp4")}
    assert len(asked) >= 3
    for query in asked:
        since, until = datetime.fromisoformat(query["since"]), datetime.fromisoformat(query["until"])
        expected = set()
        for place in range(len(gallery)):
            row = gallery.rows[place]
            truth = start_of[row.source]
            moment = datetime.fromisoformat(truth["start"]) + timedelta(seconds=round(row.seconds, 3))
            if truth["camera"] == query["camera"] and since <= moment <= until:
                expected.add(row.path)
        found = search_all(model, gallery, [Query(query["query"])], where=query["where"], top=len(gallery))
        assert {hit.path for hit in found.answers[0].hits} == expected
        assert expected


def test_an_answer_has_one_hit_a_track(gallery, model):
    found = search_all(model, gallery, [Query("red")], group="track", top=len(gallery)).answers[0].hits
    tracks = {(gallery.rows[place].source, gallery.rows[place].track) for place in range(len(gallery))}
    assert sorted((hit.source, hit.track) for hit in found) == sorted(tracks)


def test_single_frames_are_searched_with_detect(small_street, model, monkeypatch):
    detector = TrueBoxes(small_street)
    asked = []

    def find(frame):
        asked.append(frame.size)
        return next(iter(detector.boxes.values()))

    find.name = find.fingerprint = "first-boxes"
    monkeypatch.setattr(detectors, "open_detector", lambda *_, **__: find)
    gallery = index(model, small_street / "frames", footage=FootageSettings(detect=True))
    names = sorted(file.name for file in (small_street / "frames").iterdir())
    assert len(asked) == len(names)
    rows = [gallery.rows[place] for place in range(len(gallery))]
    assert {row.source for row in rows} == set(names)
    for row in rows:
        camera, moment = Path(row.source).stem.split("_")
        assert (row.camera, datetime.fromisoformat(row.time)) == (
            camera,
            datetime.strptime(moment, "%Y-%m-%dT%H-%M-%S"),
        )
