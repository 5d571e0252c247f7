"""Clients that leave before they are answered."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import av
import pytest
from support.videos import numbered, write_video

from tbps_cli.serving.clips import clip_of
from tbps_cli.serving.leaving import Leaving
from tbps_cli.serving.work_queue import WorkQueue


def test_what_nobody_waits_for_any_more_is_not_made() -> None:
    made: list[str] = []
    free, begun = threading.Event(), threading.Event()

    def work(name: str) -> None:
        made.append(name)
        begun.set()
        free.wait(10)

    async def scenario() -> WorkQueue:
        queue = WorkQueue("slow", 1, 4)

        async def app(scope, receive, send) -> None:
            assert (await receive())["type"] == "http.request"
            await queue.run(lambda: work(scope["path"]))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def client(name: str, stays: float) -> list[object]:
            told: list[object] = []
            messages = [{"type": "http.request", "body": b"", "more_body": False}]

            async def receive():
                if messages:
                    return messages.pop()
                await asyncio.sleep(stays)
                return {"type": "http.disconnect"}

            async def send(message) -> None:
                told.append(message["type"])

            await Leaving(app)({"type": "http", "path": name}, receive, send)
            return told

        first = asyncio.create_task(client("first", 60))
        await asyncio.to_thread(begun.wait, 10)
        gone, last = asyncio.create_task(client("gone", 0.05)), asyncio.create_task(client("last", 60))
        assert await gone == [] and queue.inside == 2
        free.set()
        assert await first == await last == ["http.response.start", "http.response.body"]
        queue.close()
        return queue

    queue = asyncio.run(scenario())
    assert made == ["first", "last"] and queue.inside == 0


def test_an_answer_that_has_begun_is_ended_by_the_application_itself() -> None:
    async def scenario() -> list[object]:
        told: list[object] = []
        left = asyncio.Event()

        async def app(scope, receive, send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            left.set()
            assert (await receive())["type"] == "http.disconnect"
            await send({"type": "http.response.body", "body": b"the end"})

        async def receive():
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message) -> None:
            told.append(message["type"])

        await Leaving(app)({"type": "http", "path": "/"}, receive, send)
        return told

    assert asyncio.run(scenario()) == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("failing", [ValueError, asyncio.CancelledError])
def test_what_goes_wrong_in_the_application_is_not_hidden(failing: type[BaseException]) -> None:
    async def app(scope, receive, send) -> None:
        raise failing

    async def receive():
        await asyncio.sleep(60)

    async def send(message) -> None:
        raise AssertionError

    with pytest.raises(failing):
        asyncio.run(Leaving(app)({"type": "http", "path": "/"}, receive, send))


def test_a_clip_is_written_by_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of libvpx wait for each other at full speed: the same clip took ten times the processor time."""
    video = write_video(tmp_path / "street.mp4", [numbered(number) for number in range(10)])
    written: list[Any] = []
    usual = av.open

    def opened(file: Any, mode: str = "r", **options: Any) -> Any:
        made = usual(file, mode, **options)
        written.extend([made] if mode == "w" else [])
        return made

    monkeypatch.setattr(av, "open", opened)
    threads: list[int] = []

    def count() -> bool:
        threads.append(written[0].streams.video[0].codec_context.thread_count)
        return False

    assert clip_of(video, 0.5, stopped=count)
    assert len(threads) > 5 and set(threads[1:]) == {1}
