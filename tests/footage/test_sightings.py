"""Persons in videos: what is found, joined, remembered and shown again."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.videos import Blocks, write_video

from tbps_cli.footage import seen
from tbps_cli.footage.boxes import Detection
from tbps_cli.footage.crops import crop, crops, cut
from tbps_cli.footage.seen import SeenFrames
from tbps_cli.footage.sightings import sightings
from tbps_cli.footage.tracks import Tracks
from tbps_cli.footage.video import UnreadableVideo

CONTENT = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TBPS_CACHE_DIR", str(folder))
    return folder


def walker(place: int, *, every: int = 4) -> Image.Image:
    """Two persons in red who pass each other: one has a light, one a dark head."""
    pixels = np.full((120, 320, 3), 110, np.uint8)
    for left, head in ((10 + every * place, 230), (270 - every * place, 30)):
        pixels[40:100, left : left + 20] = (200, 30, 30)
        pixels[28:40, left : left + 20] = head
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    frames = [walker(place) for place in range(60)]
    return write_video(tmp_path_factory.mktemp("street") / "street.mp4", frames, keys=12, options={"crf": "10"})


def test_a_video_gives_its_persons_with_times_boxes_and_tracks(street):
    found = list(sightings(street, detector=Blocks(), every=0.5, content=CONTENT))
    assert [frame.seconds for frame, _ in found] == pytest.approx([n / 2 for n in range(12)])
    first = found[0][1]
    assert [sighting.track for sighting in first] == ["1", "2"]
    assert all(sighting.seconds == 0.0 and sighting.detection == 0.9 for sighting in first)
    assert np.abs(np.subtract(first[0].box, (10, 40, 20, 60))).max() <= 2


def passing(seconds: float) -> tuple[Image.Image, list[Detection]]:
    """Two persons who walk past each other, one in red and one in green, and what a detector finds of them."""
    pixels = np.full((200, 640, 3), 120, np.uint8)
    boxes = []
    for left, colour in ((20 + 60 * seconds, (200, 40, 40)), (580 - 60 * seconds, (30, 150, 60))):
        box = round(left), 60, 30, 90
        boxes.append(Detection(box, 0.9))
        pixels[60:150, box[0] : box[0] + 30] = (40, 40, 50)
        pixels[75:110, box[0] : box[0] + 30] = colour
    return Image.fromarray(pixels), boxes


@pytest.mark.parametrize("interval", [0.1, 0.5, 1.0, 2.0])
def test_two_persons_who_pass_each_other_keep_their_tracks_at_any_interval(interval):
    tracks = Tracks(interval)
    for number in range(int(9 / interval)):
        seconds = number * interval
        image, found = passing(seconds)
        expected = ["1", "2"]
        if abs(seconds - 4.67) < 0.2:  # the one in green hides the other
            found, expected = found[1:], expected[1:]
        order = found[::-1] if number % 2 else found
        names = dict(zip([box for box, _ in order], tracks.update(seconds, image, order), strict=True))
        assert [names[box] for box, _ in found] == expected, seconds


def test_somebody_who_comes_after_a_while_gets_a_track_of_their_own():
    tracks = Tracks(0.5)
    image, found = passing(0.0)
    assert tracks.update(0.0, image, found[:1]) == ["1"]
    for number in range(1, 10):
        assert tracks.update(number / 2, image, []) == []
    assert tracks.update(5.0, image, found[:1]) == ["2"]
    assert tracks.update(5.5, image, [Detection((0, 0, 8, 8), 0.9), *found[:1]]) == ["3", "2"]


def test_what_the_detector_found_is_not_looked_for_again(street):
    detector = Blocks()
    first = [row for _, row in sightings(street, detector=detector, every=0.5, content=CONTENT)]
    assert detector.asked == 12
    assert [row for _, row in sightings(street, detector=detector, every=0.5, content=CONTENT)] == first
    assert detector.asked == 12
    list(sightings(street, detector=detector, every=0.25, content=CONTENT))  # half of these frames are known
    assert 12 < detector.asked <= 24
    other = Blocks("blocks-2")
    list(sightings(street, detector=other, every=0.5, content=CONTENT))
    assert other.asked == 12


def test_an_image_file_is_one_frame_without_a_time(tmp_path):
    path = tmp_path / "photo.png"
    walker(3).save(path)
    detector = Blocks()
    for _ in range(2):
        ((frame, found),) = sightings(path, detector=detector, every=None, content="ab" * 16)
        assert [(s.seconds, s.track) for s in found] == [(None, None), (None, None)]
        assert np.array_equal(np.asarray(crop(path, None, found[0].box)), np.asarray(cut(frame.image, found[0].box)))
    assert detector.asked == 1


def test_a_crop_has_the_pixels_that_were_embedded(street):
    embedded = [
        (sighting.seconds, sighting.box, np.asarray(cut(frame.image, sighting.box)))
        for frame, found in sightings(street, detector=Blocks(), every=0.3, content=CONTENT)
        for sighting in found
    ]
    for seconds, box, pixels in embedded[::-3]:
        assert np.array_equal(np.asarray(crop(street, seconds, box)), pixels)
        assert np.array_equal(np.asarray(crop(street, round(seconds, 3), box)), pixels)
    order = np.random.default_rng(0).permutation(len(embedded))
    got = crops(street, [embedded[place][:2] for place in order])
    assert all(np.array_equal(np.asarray(image), embedded[place][2]) for image, place in zip(got, order, strict=True))


def test_a_time_that_the_video_has_no_frame_at_is_refused(street):
    with pytest.raises(UnreadableVideo, match=r"it has no frame at 99.000 s"):
        crop(street, 99.0, None)
    with pytest.raises(UnreadableVideo, match=r"it has no frame at 0.050 s"):
        crop(street, 0.05, None)


# The cache ------------------------------------------------------------------------------------


def test_a_line_that_was_cut_at_any_byte_costs_that_line_alone(cache):
    store = SeenFrames("blocks", CONTENT, video=True)
    for place in range(4):
        store.add(f"{place}", [Detection((place, 1, 20, 40), 0.5)])
    content = store.path.read_bytes()
    start = content.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(content)):
        store.path.write_bytes(content[:end])
        after = SeenFrames("blocks", CONTENT, video=True)
        assert after.get("2") == [Detection((2, 1, 20, 40), 0.5)] and after.get("3") is None
        after.add("4", [])
        again = SeenFrames("blocks", CONTENT, video=True)
        assert [again.get(key) for key in ("0", "2", "4")] == [store.get("0"), store.get("2"), []]


def test_damaged_lines_are_passed_over(cache):
    store = SeenFrames("blocks", CONTENT, video=True)
    store.add("1", [Detection((1, 1, 20, 40), 0.5)])
    store.add("2", [])
    content = bytearray(store.path.read_bytes())
    content[15] ^= 1
    store.path.write_bytes(bytes(content) + b"\xff\xfe\n" + json.dumps(["3", []]).encode() + b"\n")
    after = SeenFrames("blocks", CONTENT, video=True)
    assert [after.get(key) for key in ("1", "2", "3")] == [None, [], None]


def _write(number: int) -> None:
    store = SeenFrames("blocks", CONTENT, video=True)
    for place in range(200):
        store.add(f"{number}-{place}", [Detection((number, place, 20, 40), 0.5)] * 20)


def test_several_processes_write_at_once(cache):
    context = multiprocessing.get_context("fork" if os.name == "posix" else None)
    workers = [context.Process(target=_write, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    store = SeenFrames("blocks", CONTENT, video=True)
    assert all(len(store.get(f"{number}-{place}")) == 20 for number in range(3) for place in range(200))


def test_a_cache_that_cannot_be_written_is_said_once_and_nothing_is_lost(tmp_path, monkeypatch, caplog, street):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "file" / "cache"))
    rows = list(sightings(street, detector=Blocks(), every=1, content=CONTENT))
    assert len(rows) == 6
    assert len(caplog.messages) == 1 and "cannot be written" in caplog.messages[0]


def test_the_oldest_detections_go_when_there_are_too_many(cache, monkeypatch):
    for age, name in enumerate(("aa", "bb", "cc")):
        store = SeenFrames("blocks", name, video=True)
        store.add("0", [Detection((1, 1, 20, 40), 0.5)] * 10)
        os.utime(store.path, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(seen, "MOST_BYTES", store.path.stat().st_size * 2)
    seen.make_room()
    assert sorted(path.name for path in cache.glob("*/*/*")) == ["aa.jsonl", "bb.jsonl"]


def test_a_killed_run_goes_on_where_it_was(street, cache):
    def work(path: Path) -> None:
        for place, _ in enumerate(sightings(path, detector=Blocks(), every=0.5, content=CONTENT)):
            if place == 6:
                os.kill(os.getpid(), signal.SIGKILL)

    worker = multiprocessing.get_context("fork").Process(target=work, args=(street,))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    detector = Blocks()
    assert len(list(sightings(street, detector=detector, every=0.5, content=CONTENT))) == 12
    assert detector.asked == 12 - 7
