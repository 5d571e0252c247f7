"""Hits of frames and videos as documents, tables and copies."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.sets import save_image

from tbps_cli.features.rows import Row, Rows
from tbps_cli.searching import document
from tbps_cli.searching.blur import CELLS, HEAD
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.hits import copy_hits, page
from tbps_cli.searching.query import Query
from tbps_cli.searching.ranking import Answer
from tbps_cli.types import Hit

BOXES = [(20, 30, 40, 100), (200, 60, 50, 120)]


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Gallery, Answer]:
    """Two persons in one frame, and a crop of its own."""
    save_image(tmp_path / "frames" / "cam 3.png", 5, (320, 240))
    save_image(tmp_path / "crop.jpg", 6, (64, 160))
    rows = [
        Row(f"frames/cam 3.png#xywh={','.join(map(str, box))}", source="frames/cam 3.png", box=box, track=str(n + 1))
        for n, box in enumerate(BOXES)
    ]
    gallery = Gallery("photos", Roots(tmp_path), Rows.of([*rows, Row("crop.jpg")]), np.eye(3))
    times = ["2026-01-05T10:11:12", None]
    hits = [
        Hit(
            rank,
            row.path,
            0.5 - rank / 10,
            gallery.file_of(row),
            camera="cam/3",
            time=time,
            source=row.source,
            box=row.box,
            track=row.track,
        )
        for rank, (row, time) in enumerate(zip(rows, times, strict=True), 1)
    ]
    hits.append(Hit(3, "crop.jpg", 0.1, tmp_path / "crop.jpg"))
    return gallery, Answer(Query("a man"), hits, None, 3)


def test_a_hit_of_a_frame_says_where_it_was_seen(scene) -> None:
    gallery, answer = scene
    first, second, third = json.loads(json.dumps(document.document(answer, gallery, "run")))["hits"]
    assert first["source"] == "frames/cam 3.png" and first["box"] == [20, 30, 40, 100]
    assert (first["track"], first["time"], first["camera"]) == ("1", "2026-01-05T10:11:12", "cam/3")
    assert "time" not in second and "seconds" not in first
    assert not {"source", "box", "track", "camera"} & set(third)


def test_the_time_of_a_video_without_a_date_is_a_number(scene) -> None:
    gallery, _ = scene
    hit = Hit(1, "v.mp4#t=12.480", 0.5, Path("v.mp4"), source="v.mp4", seconds=12.48, box=BOXES[0])
    made = document.document(Answer(Query("q"), [hit], None, 3), gallery, "run")["hits"][0]
    assert made["time"] == 12.48 == made["seconds"]


def test_the_table_has_the_same_facts(scene) -> None:
    rows = list(csv.DictReader(io.StringIO(document.table([scene[1]]))))
    assert rows[0]["box"] == "20,30,40,100" and rows[0]["source"] == "frames/cam 3.png"
    assert rows[2]["box"] == rows[2]["source"] == ""


def test_paths_name_the_frame_once(scene) -> None:
    gallery, answer = scene
    assert document.paths([answer]).decode().splitlines() == [
        str(gallery.roots.folder / name) for name in ("frames/cam 3.png", "crop.jpg")
    ]


def test_crops_are_copied_with_equal_pixels_under_rank_camera_and_time(scene, tmp_path) -> None:
    gallery, answer = scene
    assert copy_hits([answer], gallery, tmp_path / "out") == 3
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["001-cam-3-cam-3-2026-01-05T10-11-12-track-1.png", "002-cam-3-cam-3-track-2.png", "003-crop.jpg"]
    with Image.open(tmp_path / "out" / names[0]) as copy, Image.open(tmp_path / "frames" / "cam 3.png") as frame:
        assert np.array_equal(np.asarray(copy), np.asarray(frame.crop((20, 30, 60, 130))))
    assert (tmp_path / "out" / "003-crop.jpg").read_bytes() == (tmp_path / "crop.jpg").read_bytes()


def test_whole_frames_are_copied_as_jpegs(scene, tmp_path) -> None:
    gallery, answer = scene
    copy_hits([answer], gallery, tmp_path / "out", whole_frames=True)
    with Image.open(tmp_path / "out" / "002-cam-3-cam-3-track-2.jpg") as copy:
        assert copy.size == (320, 240) and copy.format == "JPEG"


@pytest.mark.parametrize("whole", [False, True])
def test_copies_without_heads_have_none_and_nothing_else_of_the_file(scene, tmp_path, whole: bool) -> None:
    gallery, answer = scene
    with Image.open(tmp_path / "crop.jpg") as image:
        image.save(tmp_path / "crop.jpg", quality=95, comment=b"somebody's name", exif=b"Exif\x00\x00somebody's face")
    copy_hits([answer], gallery, tmp_path / "out", whole_frames=whole, blur=True)
    for path in (tmp_path / "out").iterdir():
        assert b"somebody" not in path.read_bytes()
    if not whole:
        with Image.open(tmp_path / "out" / "002-cam-3-cam-3-track-2.png") as copy:
            head = np.asarray(copy)[: round(HEAD * copy.height)].reshape(-1, 3)
            assert len(np.unique(head, axis=0)) <= CELLS * CELLS


def test_the_page_has_the_frame_once_and_both_boxes(scene) -> None:
    gallery, answer = scene
    text = page([answer], gallery, "run", filtered='camera == "cam/3"')
    assert text.count("data:image/jpeg") == 4 and text.count("<rect x=") == 2
    assert (
        "cam/3 · 2026-01-05 10:11:12<" in text and "track 1<" in text and "<dd><bdi>camera == &#34;cam/3&#34;" in text
    )
    assert "file:" in text and "file:" not in page([answer], gallery, "run", blur=True)
