"""`tbps serve` as a process: the port, the address that it prints, how it ends, and what a kill leaves."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving.conftest import until
from support.encoder import FakeEncoder

from tbps_cli.searching.index import index
from tbps_cli.serving import connections, server
from tbps_cli.serving.clips import clip_of
from tbps_cli.serving.server import Address, Given, serve

CHILD = """
import sys
from support.encoder import FakeEncoder
from tbps_cli.serving.server import Address, Given, serve
told = lambda url, service: print(url, flush=True)
serve(FakeEncoder(), Given(sys.argv[2:]), Address(port=int(sys.argv[1])), ready=told)
"""


@contextmanager
def process(*sources: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server, and its address."""
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    words = [sys.executable, "-c", CHILD, str(port), *map(str, sources)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
    try:
        yield child, child.stdout.readline().strip()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def found(url: str, text: str = "red") -> list[str]:
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(f"{url}v1/search", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return [hit["path"] for hit in json.load(reply)["hits"]]
    except urllib.error.HTTPError as error:
        assert error.code == 503, error.read()
        return []


def test_it_answers_says_where_and_ends_quietly(photos: Path) -> None:
    with process(photos) as (child, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        assert until(lambda: len(found(url)) == 3)
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) in (0, -signal.SIGTERM)


def test_a_kill_under_load_loses_nothing(photos: Path) -> None:
    with process(photos) as (child, url):
        assert until(lambda: len(found(url)) == 3)
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                try:
                    found(url)
                except (OSError, http.client.HTTPException):
                    return

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        threading.Event().wait(0.3)
        child.send_signal(signal.SIGKILL)
        child.wait()
        stop.set()
        for thread in threads:
            thread.join()
    port = int(url.rsplit(":", 1)[1].strip("/"))
    with process(photos, port=port) as (_, again):
        assert again == url
        assert until(lambda: len(found(again)) == 3)


def test_a_client_that_leaves_keeps_no_place(photos: Path) -> None:
    with process(photos) as (_, url):
        assert until(lambda: len(found(url)) == 3)
        port = int(url.rsplit(":", 1)[1].strip("/"))
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", port)) as half:
                half.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert len(found(url)) == 3


def test_a_connection_that_says_nothing_is_closed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    at, runners = [], []

    class Kept(server._Runner):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            runners.append(self)

    monkeypatch.setattr(server, "_Runner", Kept)
    told = {"ready": lambda url, service: at.append(url)}
    thread = threading.Thread(target=serve, args=(FakeEncoder(), Given([str(photos)]), Address(port=0)), kwargs=told)
    thread.start()
    try:
        assert until(lambda: at)
        port = int(at[0].rsplit(":", 1)[1].strip("/"))
        whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for begun in (b"", b"GET / HTTP/1.1\r\nHost: loc", whole):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as quiet:
                quiet.sendall(begun)
                if begun == whole:
                    assert quiet.recv(4096).startswith(b"HTTP/1.1 200")
                    quiet.sendall(b"GET /hea")
                while quiet.recv(4096):
                    pass
        assert until(lambda: len(found(at[0])) == 3)
    finally:
        runners[0].should_exit = True
        thread.join(30)


def test_a_port_that_is_taken_is_said_before_the_model_is_opened(photos: Path) -> None:
    from tbps_cli.errors import DataError

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(DataError, match="in use") as told:
        serve("no such model", Given([str(photos)]), Address(port=taken.getsockname()[1]))
    assert "--port" in told.value.hint


def test_what_cannot_be_served_is_one_line(tbps, photos: Path, tmp_path: Path) -> None:
    assert tbps("serve", "--port", "0")[2].startswith("Error: no source is given.")
    assert "nowhere" in tbps("serve", "nowhere", "--port", "0")[2]
    assert "no gallery of this name" in tbps("serve", "--gallery", "nobody", "--port", "0")[2]
    assert "16 printable" in tbps("serve", str(photos), "--token", "short", "--port", "0")[2]
    assert "--budget" in tbps("serve", str(photos), "--budget", "lots", "--port", "0")[2]
    index(FakeEncoder(), photos, tmp_path / "x.h5")
    assert "searched alone" in tbps("serve", str(tmp_path / "x.h5"), str(photos), "--port", "0")[2]


def test_a_clip_is_some_seconds_around_a_moment(small_street: Path) -> None:
    import io

    import av

    video = sorted(small_street.rglob("*.mp4"))[0]
    with av.open(io.BytesIO(clip_of(video, 4.0))) as clip:
        times = [float(frame.time) for frame in clip.decode(video=0)]
        stream = clip.streams.video[0]
        assert stream.codec_context.name == "vp8"
    assert 3.0 <= times[-1] - times[0] <= 6.2
    assert all(later > earlier for earlier, later in itertools.pairwise(times))
