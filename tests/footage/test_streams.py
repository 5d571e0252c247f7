"""Streams from a server on this machine: recorded in whole pieces, opened again, and never led elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.streaming import served
from support.videos import number_of, numbered, write_video

from tbps_cli.errors import UsageError
from tbps_cli.footage import streams
from tbps_cli.footage.frames import frames
from tbps_cli.footage.streams import PieceName, StreamRecorder, check_stream, is_stream, piece_of, shown, stream_name


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Six seconds of numbered frames, ten a second, a key frame every half second."""
    path = tmp_path_factory.mktemp("clip") / "clip.ts"
    return write_video(path, [numbered(number) for number in range(60)], rate=10, keys=5).read_bytes()


def wait(fits: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not fits():
        assert time.monotonic() < until
        time.sleep(0.02)


def numbers(folder: Path) -> list[int]:
    return [number_of(frame.image) for piece in sorted(folder.glob("*.mkv")) for frame in frames(piece)]


def test_a_stream_is_recorded_in_pieces_that_begin_with_a_key_frame(clip: bytes, tmp_path: Path) -> None:
    with served(clip) as address:
        recorder = StreamRecorder(address, tmp_path / "record", piece=1.0)
        recorder.start()
        wait(lambda: len(list((tmp_path / "record").glob("*.mkv"))) >= 4)
        recorder.stop()
    first = sorted((tmp_path / "record").glob("*.mkv"))[:4]
    assert [number_of(frame.image) for piece in first for frame in frames(piece)] == list(range(60))
    assert all(piece_of(piece).camera == stream_name(address) for piece in first)
    assert not list((tmp_path / "record").glob(".*.part"))


def test_a_stream_that_breaks_off_is_opened_again(
    clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(streams, "WAITS", (0.05, 0.1))
    with caplog.at_level(logging.INFO, "tbps"), served(clip) as address:
        recorder = StreamRecorder(address.replace("//", "//user:secret@"), tmp_path / "record", piece=1.0)
        recorder.start()
        wait(lambda: numbers(tmp_path / "record").count(0) >= 2)
        recorder.stop()
    said = caplog.text
    assert "it is opened again" in said and "is there again" in said
    assert "secret" not in said + "".join(path.name for path in (tmp_path / "record").iterdir())


def test_what_a_killed_process_was_writing_is_kept(clip: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "record"
    folder.mkdir()
    with served(clip) as address:
        half = folder / f".{stream_name(address)}_2026-01-05T10-00-00.000.mkv.part"
        write_video(half, [numbered(7)] * 5, rate=10, keys=5, format="matroska")
        recorder = StreamRecorder(address, folder)
        recorder.start()
        recorder.stop()
    kept = next(piece for piece in folder.glob("*.mkv") if "2026-01-05" in piece.name)
    assert {number_of(frame.image) for frame in frames(kept)} == {7}


def test_a_second_process_does_not_record_the_same_stream(clip: bytes, tmp_path: Path) -> None:
    with served(clip) as address:
        first, second = (StreamRecorder(address, tmp_path / "record", piece=1.0) for _ in range(2))
        first.start()
        second.start()
        wait(lambda: len(numbers(tmp_path / "record")) >= 30)
        second.stop()
        first.stop()
    found = numbers(tmp_path / "record")
    assert found == sorted(found)


@pytest.mark.parametrize(
    "content",
    [b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", b"ffconcat version 1.0\nfile /etc/hostname\n"],
)
def test_a_playlist_leads_nowhere(content: bytes, tmp_path: Path) -> None:
    with served(content) as address:
        recorder = StreamRecorder(address, tmp_path / "record")
        recorder.start()
        wait(lambda: recorder.trouble is not None)
        recorder.stop()
    assert not list((tmp_path / "record").glob("*.mkv"))


def test_a_redirection_to_another_protocol_is_not_followed(tmp_path: Path) -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"file://{tmp_path}/secret.ts")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    write_video(tmp_path / "secret.ts", [numbered(1)] * 10)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    recorder = StreamRecorder(f"http://127.0.0.1:{server.server_port}/live", tmp_path / "record")
    recorder.start()
    wait(lambda: recorder.trouble is not None)
    recorder.stop()
    server.shutdown()
    server.server_close()
    assert not list((tmp_path / "record").glob("*.mkv"))


def test_recordings_go_after_a_while_but_for_those_that_are_kept(tmp_path: Path) -> None:
    recorder = StreamRecorder("rtsp://camera/live", tmp_path)
    for name in ("a.mkv", "b.mkv", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert recorder.remove_before(time.time() - 60, set()) == 0
    assert recorder.remove_before(time.time() + 60, {"b.mkv"}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.mkv", "notes.txt"]


def test_addresses_are_shown_and_named_without_secrets() -> None:
    address = "rtsp://user:secret@10.0.0.7:554/Streaming/Channels/101?token=abc"
    assert shown(address) == "rtsp://10.0.0.7:554/Streaming/Channels/101"
    assert stream_name(address).startswith("10.0.0.7-Streaming-Channels-101-")
    assert stream_name(address) != stream_name(address.replace("101", "102"))
    assert stream_name(address) == stream_name(address.replace("user:secret@", ""))
    assert is_stream(address) and not is_stream("photos/http:/x")


@pytest.mark.parametrize("address", ["file:///etc/passwd", "concat:a|b://", "ftp://h/x", "http:///x", "rtsp://[::1/x"])
def test_other_kinds_of_addresses_are_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"not opened|not an address"):
        check_stream(address)


def test_the_name_of_a_piece_says_camera_and_time() -> None:
    found = piece_of(Path("10.0.0.7-live-06f9c4_2026-01-05T10-11-12.345-2.mkv"))
    assert found == PieceName("10.0.0.7-live-06f9c4", "2026-01-05T10:11:12.345")
    assert piece_of(Path("holiday.mkv")) is None
