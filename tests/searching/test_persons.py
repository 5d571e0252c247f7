"""Persons in videos and frames become rows of an index, once, and stay there whatever happens to the process."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import random
import re
import shutil
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.encoder import FakeEncoder
from support.videos import Blocks, write_video

from tbps_cli.errors import CacheError, DataError
from tbps_cli.features import row_sink
from tbps_cli.features.store import FeatureFile
from tbps_cli.footage import detector as detectors
from tbps_cli.places import cache_dir
from tbps_cli.searching.blur import CELLS, HEAD
from tbps_cli.searching.forget import forget
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.hits import copy_hits, page
from tbps_cli.searching.index import index
from tbps_cli.searching.index_file import open_index
from tbps_cli.searching.index_state import FootageSettings
from tbps_cli.searching.query import Query
from tbps_cli.searching.ranking import answers
from tbps_cli.searching.thumbnails import ThumbnailCache

HALF = 2.5e-4
"""Most by which half precision moves a number up to 1."""


def walker(place: int) -> Image.Image:
    """Two persons in red who pass each other."""
    pixels = np.full((120, 320, 3), 110, np.uint8)
    for left, head in ((10 + 4 * place, 230), (270 - 4 * place, 30)):
        pixels[40:100, left : left + 20] = (200, 30, 30)
        pixels[28:40, left : left + 20] = head
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds, ten frames a second."""
    frames = [walker(place) for place in range(60)]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames, keys=12, options={"crf": "10"})


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Blocks:
    """The detector that every name opens."""
    detector = Blocks()
    monkeypatch.setattr(detectors, "open_detector", lambda *_, **__: detector)
    return detector


@pytest.fixture
def street(clip: Path, tmp_path: Path, blocks: Blocks) -> Path:
    """A folder with one video."""
    folder = tmp_path / "street"
    folder.mkdir()
    (folder / "gate.mp4").write_bytes(clip.read_bytes())
    return folder


def facts(gallery: Gallery) -> list[tuple[object, ...]]:
    return sorted((row.path, row.source, row.seconds, row.box, row.track) for row in gallery.rows)


def test_a_row_says_when_and_where_a_person_was_seen(model, street: Path) -> None:
    gallery = index(model, street)
    assert len(gallery) == 11, "two persons a second, but for once, when one hides the other"
    first = gallery.rows[0]
    assert first.source == "gate.mp4" and first.seconds == 0.0 and first.box is not None
    assert first.path == f"gate.mp4#t=0.000&xywh={','.join(map(str, first.box))}"
    assert {row.track for row in gallery.rows} == {"1", "2"}
    assert gallery.file_of(first) == street / "gate.mp4"


def test_a_vector_is_that_of_the_crop_that_is_shown(model, street: Path) -> None:
    gallery = index(model, street)
    for row, vector_E in zip(gallery.rows, gallery.vector_GE, strict=True):
        image = gallery.image_of(row)
        assert row.box is not None and image.size == row.box[2:]
        assert np.allclose(vector_E, model.encode_images([image])[0], atol=HALF)


def test_a_video_is_looked_at_once(model, street: Path, blocks: Blocks) -> None:
    first = index(model, street)
    again = index(model, street)
    assert (blocks.asked, model.seen, again.update.added) == (6, 11, 0) and facts(first) == facts(again)
    os.utime(street / "gate.mp4", (1, 1))
    touched = index(model, street)
    assert (blocks.asked, model.seen, facts(touched)) == (6, 11, facts(first)), "its content is what it was"


def test_a_video_is_looked_at_once_although_others_are_searched_in_between(model, street: Path, blocks: Blocks) -> None:
    shutil.copy(street / "gate.mp4", street / "other.mp4")
    with (street / "other.mp4").open("ab") as file:
        file.write(b"\0\0\0\x08free")  # another content
    for name in ("gate.mp4", "other.mp4"):
        index(model, street / name)
    asked = blocks.asked
    for name in ("gate.mp4", "other.mp4"):
        assert index(model, street / name).update.added == 0, name
    assert blocks.asked == asked


def test_one_video_of_an_index_taken_as_it_is_is_that_video_alone(model, street: Path) -> None:
    shutil.copy(street / "gate.mp4", street / "other.mp4")
    index(model, street / "*.mp4")
    for name in ("gate.mp4", "other.mp4"):
        alone = index(model, street / name, refresh=False)
        assert set(alone.rows.sources) == {name}
        assert facts(alone) == facts(index(model, street / name))
    shutil.copy(street / "gate.mp4", street / "new.mp4")
    assert set(index(model, street / "new.mp4", refresh=False).rows.sources) == {"new.mp4"}, "it was not there yet"


def test_a_video_is_not_done_when_its_rows_could_not_be_written(model, street: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise CacheError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(FeatureFile, "_written", full)
        found = facts(index(model, street))
    assert found and facts(index(model, street)) == found


def test_a_video_is_looked_at_again_when_its_index_file_is_lost(model, street: Path) -> None:
    found = facts(index(model, street))
    (file,) = cache_dir().glob("indexes/*.h5")
    file.unlink()
    assert facts(index(model, street)) == found


def test_a_broken_video_alone_is_not_said_to_show_nobody(model, tmp_path: Path, blocks: Blocks) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            index(model, tmp_path / "broken.mp4")
        assert caught.value.hint.startswith("1 file was left out, the first: broken.mp4 (")


def test_a_renamed_video_keeps_its_rows(model, street: Path, blocks: Blocks) -> None:
    before = index(model, street)
    (street / "gate.mp4").rename(street / "door.mp4")
    gallery = index(model, street)
    assert (blocks.asked, model.seen, len(gallery), gallery.update.removed) == (6, 11, 11, 11)
    assert {row.source for row in gallery.rows} == {"door.mp4"}
    assert sorted(row.path.replace("door", "gate") for row in gallery.rows) == sorted(before.rows.paths)


def test_a_copy_of_a_video_has_rows_of_its_own(model, street: Path, clip: Path) -> None:
    index(model, street)
    (street / "copy.mp4").write_bytes(clip.read_bytes())
    gallery = index(model, street)
    assert (len(gallery), model.seen) == (22, 11)
    (street / "copy.mp4").unlink()
    assert len(index(model, street)) == 11


def test_a_video_that_changed_leaves_no_old_rows(model, street: Path) -> None:
    index(model, street)
    write_video(street / "gate.mp4", [walker(place) for place in range(20)], options={"crf": "10"})
    gallery = index(model, street)
    assert len(gallery) == 4 and {row.seconds for row in gallery.rows} == {0.0, 1.0}


def test_another_interval_replaces_the_rows(model, street: Path) -> None:
    index(model, street)
    gallery = index(model, street, footage=FootageSettings(every=2.0))
    assert len(gallery) == 6 and len(index(model, street)) == 6, "it is remembered"


def test_whole_frames_are_looked_at_when_that_is_asked_for(model, street: Path) -> None:
    (street / "gate.mp4").unlink()
    walker(3).save(street / "frame.png")
    whole = index(model, street)
    assert whole.rows.paths == ["frame.png"]
    gallery = index(model, street, footage=FootageSettings(detect=True))
    assert {row.source for row in gallery.rows} == {"frame.png"} and len(gallery) == 2
    assert all(row.path.startswith("frame.png#xywh=") and row.seconds is None for row in gallery.rows)
    assert len(index(model, street)) == 2, "it is remembered"
    assert index(model, street, footage=FootageSettings(detect=False)).rows.paths == ["frame.png"]


def test_videos_are_left_out_when_that_is_asked_for(model, street: Path, painted) -> None:
    painted(street / "red.png", "red")
    assert index(model, street, footage=FootageSettings(detect=False)).rows.paths == ["red.png"]


def test_what_is_no_video_is_left_out_and_named_once(model, street: Path, lines) -> None:
    (street / "notes.mp4").write_text("no video")
    gallery = index(model, street)
    assert len(gallery) == 11 and "1 file is left out: notes.mp4 (" in lines()
    index(model, street)
    assert "notes" not in lines()


def test_a_video_without_anybody_is_an_empty_answer_that_says_why(model, street: Path, lines) -> None:
    write_video(street / "gate.mp4", [Image.new("RGB", (320, 120), "grey")] * 20)
    with pytest.raises(DataError, match="holds no usable images") as caught:
        index(model, street)
    assert "No person was found in 1 video" in caught.value.hint and "found nobody in it" in lines()
    with pytest.raises(DataError) as caught:
        index(model, street)
    assert "No person was found in 1 video" in caught.value.hint, "also when it was looked at before"


def test_another_file_of_a_detector_looks_again(model, street: Path, blocks: Blocks) -> None:
    for content in (b"one", b"one", b"another"):
        if not Path("own.onnx").exists() or Path("own.onnx").read_bytes() != content:
            Path("own.onnx").write_bytes(content)
            blocks.fingerprint = content.hex()
        index(model, street, footage=FootageSettings(detector="own.onnx"))
    assert blocks.asked == 12, "once for each of the two files"


def test_times_count_from_when_a_recording_began(model, clip: Path, blocks: Blocks, tmp_path: Path) -> None:
    frames = [walker(place) for place in range(30)]
    started = {"creation_time": "2026-01-05T10:00:00.000000Z"}
    write_video(tmp_path / "clip.mp4", frames, metadata=started, options={"crf": "10"})
    gallery = index(model, tmp_path / "clip.mp4")
    began = datetime(2026, 1, 5, 10, tzinfo=UTC).astimezone().replace(tzinfo=None)
    assert {row.time for row in gallery.rows} == {(began + timedelta(seconds=n)).isoformat() for n in range(3)}
    assert index(model, clip).rows[0].time is None, "nobody knows"


def test_what_a_name_says_can_change_without_looking_again(model, street: Path, blocks: Blocks) -> None:
    (street / "gate.mp4").rename(street / "cam3_2026-01-05T10-00-00.mp4")
    rows = index(model, street).rows
    assert {row.camera for row in rows} == {"cam3"}
    assert rows[-1].time == "2026-01-05T10:00:05" and rows[-1].seconds == 5.0
    asked = blocks.asked
    other = FootageSettings(pattern="{}_{time:%Y-%d-%mT%H-%M-%S}")
    rows = index(model, street, footage=other).rows
    assert {row.camera for row in rows} == {None} and rows[-1].time == "2026-05-01T10:00:05"
    assert (blocks.asked, model.seen, len(rows)) == (asked, 11, 11)


def test_an_index_file_of_a_video_can_be_searched_alone(model, street: Path) -> None:
    index(model, street / "gate.mp4", "people.h5")
    gallery = open_index(model, Path("people.h5"))
    assert len(gallery) == 11 and gallery.image_of(gallery.rows[0]).size == (gallery.rows[0].box or ())[2:]


# Killed -----------------------------------------------------------------------------------------


class Slow(Blocks):
    """A detector that takes its time, so that kills fall everywhere."""

    def __call__(self, frame: Image.Image):
        time.sleep(0.004)
        return super().__call__(frame)


def _index(folder: Path, report: multiprocessing.connection.Connection) -> None:
    """Index a folder, and say after each write which rows are now safe."""
    detectors.open_detector = lambda *_, **__: Slow()  # this process ends with the test
    row_sink.FLUSH_SECONDS = 0.0
    append = FeatureFile.append

    def telling(self, rows, vectors):
        append(self, rows, vectors)
        report.send([row.path for row in rows])

    FeatureFile.append = telling
    index(FakeEncoder(), folder, batch=4)


def _killed_indexing(folder: Path, kills: int, seed: int, whole: list[tuple[object, ...]]) -> tuple[Gallery, int]:
    """Kill a process that indexes until so many kills have hit; returns the gallery and how often it was finished.

    Whenever a process is quicker than the kill, everything is there, and it begins anew with an empty cache.
    """
    draw, hit, finished = random.Random(seed), 0, 0
    safe: set[str] = set()
    while hit < kills:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_index, args=(folder, theirs))
        process.start()
        theirs.close()
        process.join(draw.uniform(0.0, 0.35))
        process.kill()
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        while True:
            try:
                safe |= set(ours.recv())
            except EOFError:
                break
        known = _known_rows(folder)
        assert safe <= known, "an acknowledged row is gone"
        hit += killed
        if not killed:
            assert facts(index(FakeEncoder(), folder, batch=4)) == whole
            shutil.rmtree(os.environ["TBPS_CACHE_DIR"])
            finished, safe = finished + 1, set()
    return index(FakeEncoder(), folder, batch=4), finished


def _known_rows(folder: Path) -> set[str]:
    from tbps_cli.features.store import feature_path

    model = FakeEncoder()
    return set(FeatureFile.open(feature_path("indexes", folder, model.fingerprint), model.fingerprint).known().paths)


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_index_of_videos_loses_nothing_and_goes_on(
    street: Path, clip: Path, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        write_video(street / f"{number}.mp4", [walker(place + number) for place in range(50)], options={"crf": "10"})
    whole = facts(index(FakeEncoder(), street, Path("whole.h5")))
    monkeypatch.setenv("TBPS_CACHE_DIR", str(street.parent / "other"))
    gallery, finished = _killed_indexing(street, kills, kills, whole)
    assert facts(gallery) == whole and finished < 4 * kills, "the kills came too late"
    for row, vector_E in zip(gallery.rows, gallery.vector_GE, strict=True):
        assert np.allclose(vector_E, FakeEncoder().encode_images([gallery.image_of(row)])[0], atol=HALF)


# Forgetting, and what is shown ------------------------------------------------------------------


def test_a_forgotten_video_leaves_no_row_thumbnail_or_detection_and_stays_out(model, street: Path, blocks) -> None:
    gallery = index(model, street)
    answer = answers(model, gallery, [Query("red")], top=3)[0]
    page([answer], gallery, "run", cache=ThumbnailCache())
    assert list((cache_dir() / "detections").rglob("*.jsonl")) and list(ThumbnailCache().folder.iterdir())
    report = forget([str(street / "gate.mp4")])
    assert (report.images, report.detections) == (11, 1) and report.thumbnails >= 4
    assert not list((cache_dir() / "detections").rglob("*.jsonl")) and not list(ThumbnailCache().folder.iterdir())
    (street / "gate.mp4").rename(street / "again.mp4")
    with pytest.raises(DataError, match="no usable images"):
        index(FakeEncoder(), street)


def test_one_forgotten_crop_of_a_video_goes_alone_and_does_not_come_back(model, street: Path) -> None:
    gallery = index(model, street)
    page(answers(model, gallery, [Query("red")], top=20), gallery, "run", cache=ThumbnailCache())
    gone = gallery.rows[3].path
    assert forget([f"{street}/{gone}"]).images == 1
    assert not list(ThumbnailCache().folder.iterdir()), "a whole frame shows the person too"
    gallery = index(model, street)
    assert len(gallery) == 10 and gone not in gallery.rows.paths
    assert gone not in index(FakeEncoder(fingerprint="another"), street).rows.paths


def test_what_expires_in_a_video_goes_moment_by_moment(model, street: Path, painted) -> None:
    painted(street / "new.png", "red", (20, 40))
    begun = datetime.now() - timedelta(hours=1, seconds=3.5)
    named = street / f"cam1_{begun:%Y-%m-%dT%H-%M-%S}.mp4"
    (street / "gate.mp4").rename(named)
    whole = len(index(model, street))
    gallery = index(model, street, expire=3600.0)
    assert 1 < len(gallery) < whole
    assert len(index(model, street)) <= len(gallery) and model.seen == whole


def test_the_page_shows_each_frame_once_and_where_the_person_stood(model, street: Path) -> None:
    gallery = index(model, street)
    answer = answers(model, gallery, [Query("red")], top=4)[0]
    text = page([answer], gallery, "run")
    frames = {hit.seconds for hit in answer.hits}
    assert len(re.findall(r"\.f\d+\{", text)) == len(frames) and text.count('viewBox="0 0 320 120"') == 4
    assert all(f"{hit.file.absolute().as_uri()}#t={hit.seconds:.3f}" in text for hit in answer.hits)


def test_copies_of_a_video_are_crops_or_frames_and_blurred_ones_have_no_heads(model, street: Path, tmp_path) -> None:
    gallery = index(model, street)
    answer = answers(model, gallery, [Query("red")], top=1)[0]
    (hit,) = answer.hits
    for name, options in (("crop", {}), ("frame", {"whole_frames": True}), ("blurred", {"blur": True})):
        assert copy_hits([answer], gallery, tmp_path / name, **options) == 1
    crop, frame, blurred = (
        np.asarray(Image.open(next((tmp_path / name).iterdir()))) for name in ("crop", "frame", "blurred")
    )
    assert hit.box is not None and crop.shape == (hit.box[3], hit.box[2], 3) == blurred.shape
    assert frame.shape == (120, 320, 3)
    head = round(HEAD * len(crop))
    assert len(np.unique(blurred[:head].reshape(-1, 3), axis=0)) <= CELLS * CELLS
    assert np.array_equal(blurred[head:], crop[head:])
