"""`tbps serve` as a process: the port, the address that it prints, how it ends, and what a kill leaves."""

from __future__ import annotations

import asyncio
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from serving.conftest import paint, until
from support.encoder import FakeEncoder
from uvicorn.server import ServerState

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

LOADED = """
import sys
from support.encoder import FakeEncoder
from tbps_cli.serving import standing
from tbps_cli.serving.server import Address, Given, serve
standing.SETTLED = 0.2
told = lambda url, service: print(url, flush=True)
serve(FakeEncoder(), Given(sys.argv[2:]), Address(port=int(sys.argv[1])), budget="1000000/h", ready=told)
"""


@contextmanager
def process(*sources: Path, port: int = 0, child: str = CHILD) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server, and its address."""
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    words = [sys.executable, "-c", child, str(port), *map(str, sources)]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
    try:
        yield running, running.stdout.readline().strip()
    finally:
        running.kill()
        running.wait()
        running.stdout.close()


def found(url: str, text: str = "red", top: int = 10) -> list[str]:
    body = json.dumps({"text": text, "top": top}).encode()
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


@pytest.mark.slow
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


def call(url: str, method: str, path: str, body: object = None) -> Any:
    """The JSON of an answer; None for one without a body. Raises OSError where none comes."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.loads(reply.read() or b"null")


@pytest.mark.slow
def test_killed_again_and_again_under_load_it_keeps_all_that_it_acknowledged(tmp_path: Path) -> None:
    """Questions, rows that were shown and alerts that were told, while clients search, ask, delete and paint."""
    folder = tmp_path / "cams"
    for number in range(60):
        paint(folder / f"{number:03d}.png", ("green", "blue", "yellow")[number % 3], (16, 32 + number))
    kept: dict[str, str] = {}
    unsure: set[str] = set()
    """Questions whose deletion, or whose own answer, was on its way when the server was killed."""
    shown: set[str] = set()
    told: set[str] = set()
    numbers = itertools.count()

    def ask_and_delete(url: str, stop: threading.Event) -> None:
        while not stop.is_set():
            text = f"a person in coat number {next(numbers)}"
            unsure.add(text)
            made = call(url, "POST", "v1/watch", {"text": text})
            kept[text] = made["id"]
            unsure.discard(text)
            if len(kept) > 8:
                text, id = next(iter(kept.items()))
                unsure.add(text)
                del kept[text]
                call(url, "DELETE", f"v1/watch/{id}")
                unsure.discard(text)

    def search(url: str, stop: threading.Event) -> None:
        while not stop.is_set():
            body = {"text": "red", "top": 1000}
            shown.update(hit["path"] for hit in call(url, "POST", "v1/search", body)["hits"])

    def arrive(url: str, stop: threading.Event) -> None:
        while not stop.is_set():
            number = next(numbers)
            half = paint(folder / f".{number}.png", "red", (18, 40 + number))
            half.rename(folder / f"red-{number:04d}.png")
            alerts = call(url, "GET", "v1/watch")["alerts"]
            told.update(one["path"] for one in alerts if one["query"] == "red")
            stop.wait(0.1)

    def until_it_is_gone(work: Callable[[str, threading.Event], None], url: str, stop: threading.Event) -> None:
        with suppress(OSError, http.client.HTTPException, ValueError):
            work(url, stop)

    def questions(url: str) -> set[str]:
        return {one["text"] for one in call(url, "GET", "v1/watch")["questions"]}

    red = ""
    for seconds in (1.5, 2.5, 0.7):
        with process(folder, child=LOADED) as (child, url):
            assert until(lambda url=url: len(found(url)) >= 10)
            there = questions(url)
            assert set(kept) | ({"red"} if red else set()) <= there <= {*kept, *unsure, "red"}
            for text in there - {*kept, "red"}:  # it was kept, and only the answer was lost
                kept[text] = next(one["id"] for one in call(url, "GET", "v1/watch")["questions"] if one["text"] == text)
            unsure.clear()
            red = red or call(url, "POST", "v1/watch", {"text": "red"})["id"]
            stop = threading.Event()
            work = [ask_and_delete, search, search, search, arrive]
            threads = [threading.Thread(target=until_it_is_gone, args=(one, url, stop)) for one in work]
            for thread in threads:
                thread.start()
            threading.Event().wait(seconds)
            child.send_signal(signal.SIGKILL)
            child.wait()
            stop.set()
            for thread in threads:
                thread.join()
    with process(folder, child=LOADED) as (_, url):
        assert until(lambda: len(found(url)) >= 10)
        assert {*kept, "red"} <= questions(url) <= {*kept, *unsure, "red"}
        paths = {path.name for path in folder.glob("red-*.png")}

        def alerts() -> list[str]:
            (journal,) = (tmp_path / "cache" / "serve").glob("alerts-*.jsonl")
            lines = map(json.loads, journal.read_text().splitlines())
            return [line["path"] for line in lines if line["query"] == "red"]

        assert shown and until(lambda: shown | paths <= set(found(url, top=1000)))
        assert until(lambda: set(alerts()) == paths, 60), paths ^ set(alerts())
        assert len(alerts()) == len(set(alerts())) and told <= paths


def test_a_client_that_leaves_keeps_no_place(photos: Path) -> None:
    with process(photos) as (_, url):
        assert until(lambda: len(found(url)) == 3)
        port = int(url.rsplit(":", 1)[1].strip("/"))
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", port)) as half:
                half.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert len(found(url)) == 3


def test_answers_leave_at_once() -> None:
    """A socket that is made before the event loop would wait for the client between the head and the body."""

    class Kept(connections.PromptProtocol):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            made.set_result(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    async def connect() -> int:
        config = uvicorn.Config(lambda scope, receive, send: None)
        config.load()
        loop = asyncio.get_running_loop()
        listening = server._listen(Address(port=0))
        serving = await loop.create_server(
            lambda: Kept(config=config, server_state=ServerState(), app_state={}), sock=listening
        )
        _, writer = await asyncio.open_connection(*listening.getsockname())
        found = await made
        writer.close()
        serving.close()
        return found

    async def scenario() -> int:
        nonlocal made
        made = asyncio.get_running_loop().create_future()
        return await connect()

    made: asyncio.Future[int]
    assert asyncio.run(scenario())


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
