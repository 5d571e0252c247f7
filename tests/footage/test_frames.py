"""Reading videos: which frames come, with which times, and what is said of files that are none."""

from __future__ import annotations

import io
import logging
import os
import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.videos import number_of, numbered, turn, write_video

from tbps_cli.footage import reading
from tbps_cli.footage.frames import about, frames, frames_at
from tbps_cli.footage.video import UnreadableVideo

FRAMES = [numbered(number) for number in range(60)]


def seen(path: Path, **how) -> list[tuple[float, int]]:
    return [(round(frame.seconds, 3), number_of(frame.image)) for frame in frames(path, **how)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", FRAMES, keys=15)


def test_all_frames_come_in_order_with_their_times(clip):
    assert seen(clip) == [(number / 10, number) for number in range(60)]


def test_an_interval_gives_the_first_frame_of_each_stretch(clip):
    assert seen(clip, every=0.35) == [
        (n / 10, n) for n in (0, 4, 7, 11, 14, 18, 21, 25, 28, 32, 35, 39, 42, 46, 49, 53, 56)
    ]


def test_key_frames_alone_are_decoded_where_they_are_close_enough(clip):
    assert seen(clip, every=2) == [(0.0, 0), (3.0, 30), (4.5, 45)]
    assert seen(clip, every=1.5) == [(0.0, 0), (1.5, 15), (3.0, 30), (4.5, 45)]


def test_an_interval_shorter_than_a_frame_gives_each_frame_once(clip):
    assert seen(clip, every=1e-7) == seen(clip)


def test_a_start_leaves_out_what_lies_before_it(clip):
    assert seen(clip, every=1, start=2.05) == [(2.1, 21), (3.0, 30), (4.0, 40), (5.0, 50)]


@pytest.mark.parametrize("options", [{"bf": "3"}, {"bf": "3", "x264-params": "open-gop=1"}, {"bf": "0"}])
def test_jumping_over_key_frames_gives_the_frames_and_pixels_of_reading_all(tmp_path, options):
    path = write_video(tmp_path / "clip.mp4", FRAMES, keys=7, options=options)
    whole = {frame.seconds: np.asarray(frame.image) for frame in frames(path)}
    for wanted in (3.3, 0.0, 1.4, 5.9, 0.7, 2.05):
        moment = min(whole, key=lambda seconds: abs(seconds - wanted))
        (frame,) = frames_at(path, [moment])
        assert np.array_equal(np.asarray(frame.image), whole[moment])
    assert seen(path, every=0.65) == [(n / 10, n) for n in (0, 7, 13, 20, 26, 33, 39, 46, 52, 59)]


@pytest.mark.parametrize(
    ("name", "codec", "format"),
    [
        ("clip.mkv", "libx264", None),
        ("clip.webm", "libvpx", None),
        ("clip.avi", "mpeg4", None),
        ("clip.avi", "mjpeg", None),
        ("clip.ts", "libx264", "mpegts"),
        ("clip.mpg", "mpeg2video", None),
        ("clip.mov", "mpeg4", None),
        ("clip.flv", "flv", None),
        ("clip.h264", "libx264", "h264"),
        ("clip.mjpeg", "mjpeg", None),
    ],
)
def test_every_usual_container_gives_its_frames_and_the_same_again_one_by_one(tmp_path, name, codec, format):
    path = write_video(tmp_path / name, FRAMES[:30], rate=25, keys=8, codec=codec, format=format)
    whole = list(frames(path))
    assert [number_of(frame.image) for frame in whole] == list(range(30))
    assert np.diff([frame.seconds for frame in whole]) == pytest.approx(0.04, abs=0.002)
    for place in (29, 3, 17):
        (frame,) = frames_at(path, [whole[place].seconds])
        assert np.array_equal(np.asarray(frame.image), np.asarray(whole[place].image))


def test_variable_rates_keep_their_true_times(tmp_path):
    times = [0.0, 0.04, 0.5, 0.52, 2.0, 2.001, 7.25]
    path = write_video(tmp_path / "clip.mkv", FRAMES[:7], times=times)
    assert seen(path) == [(seconds, place) for place, seconds in enumerate(times)]
    assert seen(path, every=1) == [(0.0, 0), (2.0, 4), (7.25, 6)]


def test_times_count_from_the_first_frame(tmp_path):
    path = write_video(tmp_path / "clip.mkv", FRAMES[:5], times=[100 + number / 2 for number in range(5)])
    assert seen(path) == [(number / 2, number) for number in range(5)]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_frames_are_turned_as_the_file_says(tmp_path, degrees):
    path = write_video(tmp_path / "clip.mp4", FRAMES[:3])
    turn(path, degrees)
    (first, *_) = frames(path)
    expected = FRAMES[0].rotate(-degrees, expand=True)
    assert first.image.size == expected.size == (about(path).width, about(path).height)
    assert np.abs(np.asarray(first.image).astype(int) - np.asarray(expected)).mean() < 8


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    from fractions import Fraction

    def wide(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    path = write_video(tmp_path / "clip.mkv", FRAMES[:3], change=wide)
    assert next(iter(frames(path))).image.size == (256, 96)


def test_what_a_file_says_of_itself(tmp_path):
    path = write_video(tmp_path / "clip.mp4", FRAMES, metadata={"creation_time": "2026-01-05T10:11:12.000000Z"})
    video = about(path)
    assert (video.width, video.height, video.codec) == (128, 96, "h264")
    assert (video.duration, video.rate) == (pytest.approx(6.0), pytest.approx(10.0))
    assert video.recorded == "2026-01-05T10:11:12+00:00"


def test_a_file_that_does_not_say_when_has_no_time(clip):
    assert about(clip).recorded is None


# What is no video -----------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(UnreadableVideo) as caught:
        about(path)
    with pytest.raises(UnreadableVideo):
        list(frames(path, every=1))
    assert caught.value.path == path
    return caught.value.reason


def sound(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    return path


def test_files_that_are_no_videos_say_why(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video at all\n" * 50)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    image = tmp_path / "image.mp4"
    Image.new("RGB", (64, 64)).save(image, "PNG")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert refused(text) == "no known video format"
    assert refused(empty) == "the file is empty"
    assert refused(image) == "no known video format"
    assert refused(tmp_path) == "it is a folder"
    assert refused(tmp_path / "pipe.mp4") == "it is no file but a device or a pipe"
    assert refused(tmp_path / "none.mp4") == "it does not exist"
    assert refused(sound(tmp_path / "sound.mp4")) == "it holds no images, only sound"


def test_a_name_that_ffmpeg_takes_for_an_address_is_a_name(tmp_path, monkeypatch, clip):
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a|b.mp4", "http:x.mp4", "pipe:0", "subfile,,start,0,end,9,,:a.mp4"):
        assert refused(Path(name)) == "it does not exist"
        Path(name).write_bytes(clip.read_bytes())
        assert len(seen(Path(name))) == 60


def test_lists_of_files_are_not_followed(tmp_path, clip):
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\na.mp4\n#EXT-X-ENDLIST\n"
    for name, content in (
        ("list.mp4", playlist),
        ("list.m3u8", playlist),
        ("concat.mp4", "ffconcat version 1.0\nfile a.mp4\n"),
    ):
        (tmp_path / name).write_text(content)
        assert refused(tmp_path / name).startswith("it is a list of other files")


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(tmp_path, clip, monkeypatch):
    huge = tmp_path / "huge.y4m"
    huge.write_bytes(b"YUV4MPEG2 W30000 H30000 F10:1 C420\nFRAME\n" + bytes(100_000))
    assert refused(huge)
    monkeypatch.setattr(reading, "MAX_PIXELS", 10_000)
    assert refused(clip) == "its frames have 128 x 96 pixels, more than 10,000 together"


def test_a_frame_that_is_too_large_in_the_middle_is_left_out(tmp_path, monkeypatch):
    content = b""
    for size in ((128, 96), (256, 192), (128, 96)):
        image = io.BytesIO()
        numbered(5, *size).save(image, "JPEG", quality=95)
        content += image.getvalue()
    path = tmp_path / "clip.mjpeg"
    path.write_bytes(content * 5)
    assert [frame.image.size for frame in frames(path)][:3] == [(128, 96), (256, 192), (128, 96)]
    monkeypatch.setattr(reading, "MAX_PIXELS", 20_000)
    assert {frame.image.size for frame in frames(path)} == {(128, 96)}


def test_a_cut_off_file_gives_what_it_holds_and_says_so(tmp_path, caplog):
    path = write_video(tmp_path / "clip.mkv", FRAMES, keys=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    caplog.set_level(logging.WARNING, "tbps")
    found = seen(path)
    assert 20 < len(found) < 60
    assert [number for _, number in found] == list(range(len(found)))
    assert len(caplog.messages) <= 1


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4"])
def test_a_file_that_is_cut_off_gives_the_same_frames_at_an_interval_of_its_key_frames(tmp_path, name, caplog):
    """The index of this AVI is lost, that of this MP4 tells of frames that are."""
    options = {"movflags": "faststart"} if name.endswith("mp4") else None
    path = write_video(tmp_path / name, FRAMES, keys=9, codec="mpeg4", container_options=options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    whole = seen(path)
    assert 15 < len(whole) < 58
    expected = [next((s, n) for s, n in whole if s >= stretch) for stretch in range(int(whole[-1][0]) + 1)]
    found = seen(path, every=1)
    assert len(found) == len(expected) and [int(s) for s, _ in found] == [int(s) for s, _ in expected]
    assert all(number == round(seconds * 10) for seconds, number in found)


def test_a_cut_off_file_without_its_index_says_what_is_missing(tmp_path, clip):
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert refused(path) == "it is cut off before the index at its end, or damaged"


def test_damaged_bytes_cost_frames_and_one_line(tmp_path, caplog):
    path = write_video(tmp_path / "clip.ts", FRAMES, keys=5, format="mpegts")
    content = bytearray(path.read_bytes())
    draw = np.random.default_rng(0)
    for place in draw.integers(2000, len(content), 60):
        content[place] = draw.integers(256)
    path.write_bytes(content)
    caplog.set_level(logging.WARNING, "tbps")
    found = seen(path, every=0.2)
    assert len(found) > 10
    assert all(a < b for (a, _), (b, _) in pairwise(found))
    assert len(caplog.messages) <= 1
